/* Products of a row of groups with packed weights, in plain C: what mj_product_*.c share. Contract: mj_rows.h.
 *
 * Sums are kept modulo 2^32 in unsigned words, as the cores do; shifting a negative number right is arithmetic in every
 * compiler used here (tested). The files that include this define
 *   MJ_PRODUCT_CLAMPED  1: low and high bound the results; 0: int8 does
 */
#ifndef MJ_PRODUCT_H
#define MJ_PRODUCT_H

#include "mj_rows.h"

#if !defined(MJ_ROUNDING_SINGLE) && !defined(MJ_ROUNDING_MULHI)
#include "mj_requantize.h"
#endif

static inline int32_t mj_product_scale(int32_t sum, int32_t multiplier, int32_t addend, int32_t shift)
{
#if defined(MJ_ROUNDING_MULHI)
    (void)shift;
    return (int32_t)(((int64_t)sum * multiplier + (INT64_C(1) << 31)) >> 32) + addend;
#elif defined(MJ_ROUNDING_SINGLE)
    const int32_t high = (int32_t)(((int64_t)sum * multiplier) >> 32);
    return (int32_t)((uint32_t)high + (uint32_t)addend) >> shift;
#else
    return mj_requantize(sum, multiplier, -shift) + addend;
#endif
}

static inline int32_t mj_product_bound(const mj_product *p, int32_t value)
{
#if MJ_PRODUCT_CLAMPED
    const int32_t low = (int16_t)p->low, high = (int16_t)p->high;
#else
    const int32_t low = -128, high = 127;
    (void)p;
#endif
    value = value < low ? low : value;
    return value > high ? high : value;
}

/* The two results of a pair of channels at one pixel: even, odd. x: word 0 of the pixel in its group. */
static inline void mj_product_point(const mj_product *p, const uint32_t *x, const uint32_t *weights,
                                    const mj_pair *pair, int32_t result[2])
{
    uint32_t high = (uint32_t)pair->start_high, low = (uint32_t)pair->start_low;
    for (int32_t k = 0; k < p->depth; ++k) {
        const int32_t first = (int16_t)(x[4 * k] & 0xFFFFu), second = (int16_t)(x[4 * k] >> 16);
        const uint32_t lanes = weights[k];
        high += (uint32_t)(first * (int16_t)(lanes & 0xFFFFu)) + (uint32_t)(second * (int16_t)(lanes >> 16));
        low += (uint32_t)(first * (int8_t)(lanes & 0xFFu)) + (uint32_t)(second * (int8_t)(lanes >> 16 & 0xFFu));
    }
    const int32_t even = (int32_t)low, odd = (int32_t)(high - low) >> 8;
    result[0] = mj_product_bound(p, mj_product_scale(even, pair->multiplier_even, pair->addend_even, pair->shift_even));
    result[1] = mj_product_bound(p, mj_product_scale(odd, pair->multiplier_odd, pair->addend_odd, pair->shift_odd));
}

static inline void mj_product_to_planes(const mj_product *p)
{
    for (int32_t j = 0; j < p->count; ++j) {
        unsigned char *even = (unsigned char *)p->out + (int64_t)2 * j * p->distance;
        for (int32_t i = 0; i < p->pixels; ++i) {
            const uint32_t *x = p->x + (int64_t)(i / 4) * 4 * p->depth + i % 4;
            int32_t result[2];
            mj_product_point(p, x, p->weights + (int64_t)j * p->depth, p->pairs + j, result);
            int16_t *to = (int16_t *)(void *)(even + (int64_t)(i / 2) * p->step) + i % 2;
            *to = (int16_t)result[0];
            to = (int16_t *)(void *)(even + p->distance + (int64_t)(i / 2) * p->step) + i % 2;
            *to = (int16_t)result[1];
        }
    }
}

static inline void mj_product_to_pixels(const mj_product *p)
{
    for (int32_t j = 0; j < p->count; ++j) {
        int8_t *to = (int8_t *)p->out + 2 * j;
        for (int32_t i = 0; i < p->pixels; ++i, to += p->distance) {
            const uint32_t *x = p->x + (int64_t)(i / 4) * 4 * p->depth + i % 4;
            int32_t result[2];
            mj_product_point(p, x, p->weights + (int64_t)j * p->depth, p->pairs + j, result);
            to[0] = (int8_t)result[0];
            to[1] = (int8_t)result[1];
        }
    }
}

#endif
