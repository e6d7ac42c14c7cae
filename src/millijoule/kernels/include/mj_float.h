/* Float helpers without libm. Multiplications and additions are never fused, so that every machine gives equal bits:
 * clang obeys the pragma, GCC does not fuse under -std=c11 (nor with -ffp-contract=off). Single precision only. */
#ifndef MJ_FLOAT_H
#define MJ_FLOAT_H

#include <stdint.h>

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif

static inline float mj_clamp_float(float value, float low, float high)
{
    value = value < low ? low : value;
    return value > high ? high : value;
}

/* trunc(x + copysign(1/2, x)) as an integer, cut to +-2^30 */
static inline int32_t mj_round_half_away(float x)
{
    const float limit = 1073741824.0f;
    const float moved = x < 0.0f ? x - 0.5f : x + 0.5f;
    if (moved >= limit) {
        return INT32_C(1) << 30;
    }
    return moved > -limit ? (int32_t)moved : -(INT32_C(1) << 30);
}

#endif
