/* From 32-bit sums to small integers: acc * multiplier * 2^(shift - 31), rounded by the rule the model names; 2^(shift -
 * 32) with MJ_ROUNDING_MULHI.
 *
 * Define exactly one of
 *   MJ_ROUNDING_SINGLE  floor(acc * multiplier * 2^(shift - 31) + 1/2): one rounding, halves up
 *   MJ_ROUNDING_DOUBLE  gemmlowp's two steps: high = floor((acc << max(shift, 0)) * multiplier / 2^31 + 1/2),
 *                       then high / 2^max(-shift, 0) to nearest, halves away from zero
 *   MJ_ROUNDING_MULHI   floor((acc << shift) * multiplier / 2^32 + 1/2): SMMULR; shift: [0, 30], 0 for real scales below
 *                       1/2; multiplier: [0, 2^31)
 * multiplier: 0 or [2^29, 2^31); shift: [-31, 30] unless said otherwise. Results are cut to their low 32 bits, and so is a left shift.
 * Shifting a negative number right is arithmetic in every compiler used here (tested).
 */
#ifndef MJ_REQUANTIZE_H
#define MJ_REQUANTIZE_H

#include <stdint.h>

#if defined(MJ_ROUNDING_SINGLE) + defined(MJ_ROUNDING_DOUBLE) + defined(MJ_ROUNDING_MULHI) != 1
#error "define exactly one of MJ_ROUNDING_SINGLE, MJ_ROUNDING_DOUBLE and MJ_ROUNDING_MULHI"
#endif

/* Where mj_requantize_small stands for mj_requantize. */
static inline int32_t mj_shift_is_small(int32_t shift)
{
#if defined(MJ_ROUNDING_MULHI)
    return shift == 0;
#else
    return shift <= -2;
#endif
}

#if defined(MJ_ROUNDING_SINGLE)
/* the formula as it stands; kept out of the loops, which rarely need it */
static __attribute__((noinline, unused)) int32_t mj_requantize_wide(int32_t acc, int32_t multiplier, int32_t shift)
{
    const int32_t total = 31 - shift;
    return (int32_t)(((int64_t)acc * multiplier + (INT64_C(1) << (total - 1))) >> total);
}

/* shift <= -2 (a real scale below 1/4): the half lies in the high word, and adding it there cannot carry from the low
 * one. Cortex-M: SMMLA, ASR. */
static inline int32_t mj_requantize_small(int32_t acc, int32_t multiplier, int32_t shift)
{
    const int32_t high = (int32_t)(((int64_t)acc * multiplier) >> 32);
    return (high + (INT32_C(1) << (-2 - shift))) >> (-1 - shift);
}

static inline int32_t mj_requantize(int32_t acc, int32_t multiplier, int32_t shift)
{
    if (__builtin_expect(shift > -2, 0)) {
        return mj_requantize_wide(acc, multiplier, shift);
    }
    /* as above, halved last: two constants fewer where the channel changes with every call */
    const int32_t high = (int32_t)(((int64_t)acc * multiplier) >> 32);
    return ((high >> (-2 - shift)) + 1) >> 1;
}
#elif defined(MJ_ROUNDING_MULHI)
/* shift 0 */
static inline int32_t mj_requantize_small(int32_t acc, int32_t multiplier, int32_t shift)
{
    (void)shift;
    return (int32_t)(((int64_t)acc * multiplier + (INT64_C(1) << 31)) >> 32);
}

static inline int32_t mj_requantize(int32_t acc, int32_t multiplier, int32_t shift)
{
    return mj_requantize_small((int32_t)((uint32_t)acc << shift), multiplier, 0);
}
#else
static inline int32_t mj_requantize(int32_t acc, int32_t multiplier, int32_t shift)
{
    const int32_t left = shift > 0 ? shift : 0;
    const int32_t right = shift > 0 ? 0 : -shift;
    const int32_t shifted = (int32_t)((uint32_t)acc << left);
    /* gemmlowp divides towards zero after a nudge by the sign; that is floor(x + 1/2) for either sign */
    const int32_t high = (int32_t)(((int64_t)shifted * multiplier + (INT64_C(1) << 30)) >> 31);
    const int32_t mask = (int32_t)((UINT32_C(1) << right) - 1u);
    const int32_t threshold = (mask >> 1) + (high < 0);
    return (high >> right) + ((high & mask) > threshold);
}

/* shift <= -2: no left shift is needed */
static inline int32_t mj_requantize_small(int32_t acc, int32_t multiplier, int32_t shift)
{
    const int32_t high = (int32_t)(((int64_t)acc * multiplier + (INT64_C(1) << 30)) >> 31);
    const int32_t half = INT32_C(1) << (-shift - 1);
    return (high + half - (high < 0)) >> -shift;
}
#endif

static inline int32_t mj_clamp(int32_t value, int32_t low, int32_t high)
{
    value = value < low ? low : value;
    return value > high ? high : value;
}

/* clamp(requantize(acc) + zero, low, high). The bounds move instead of the value, so that nothing can overflow. */
static inline int8_t mj_requantize_s8(int32_t acc, int32_t multiplier, int32_t shift, int32_t zero, int32_t low,
                                      int32_t high)
{
    return (int8_t)(mj_clamp(mj_requantize(acc, multiplier, shift), low - zero, high - zero) + zero);
}

#endif
