/* Quantising a float tensor from its own range at run time; arithmetic.dynamic_range and dynamic_quantize. */
#ifndef MJ_DYNAMIC_H
#define MJ_DYNAMIC_H

#include "mj_float.h"

typedef struct {
    float scale;
    int32_t zero;
} mj_dynamic_range;

/* what values from low to high are quantised with; the range always holds zero: low <= 0 <= high */
static inline mj_dynamic_range mj_dynamic_range_of(float low, float high)
{
    mj_dynamic_range range = {(high - low) / 255.0f, 0};
    if (!(range.scale > 1e-30f)) {
        range.scale = 1.0f;
    }
    const int32_t zero = mj_round_half_away(-128.0f - low / range.scale);
    range.zero = zero < -128 ? -128 : zero > 127 ? 127 : zero;
    return range;
}

/* inverse: 1 / scale */
static inline int8_t mj_dynamic_value(float x, float inverse, int32_t zero)
{
    const int32_t value = mj_round_half_away(x * inverse) + zero;
    return (int8_t)(value < -128 ? -128 : value > 127 ? 127 : value);
}

/* x: count floats -> q: count int8; returns what they mean: x ~ scale * (q - zero). q may begin where x does: each
 * value is read before its place is written. */
static inline mj_dynamic_range mj_dynamic_quantize(const float *x, int8_t *q, int32_t count)
{
    float low = 0.0f, high = 0.0f;
    for (int32_t i = 0; i < count; ++i) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    const mj_dynamic_range range = mj_dynamic_range_of(low, high);
    const float inverse = 1.0f / range.scale;
    for (int32_t i = 0; i < count; ++i) {
        q[i] = mj_dynamic_value(x[i], inverse, range.zero);
    }
    return range;
}

#endif
