/* The raw sums of a product in plain C; mj_rows.h is the contract. */
#ifndef MJ_PRODUCT_SUMS_H
#define MJ_PRODUCT_SUMS_H

#include "mj_dsp.h"
#include "mj_rows.h"

/* sums[pixel] of the even channel, sums[4 + pixel] of the odd one, of the four pixels of a group. Kept modulo 2^32, as
 * the cores do; shifting a negative number right is arithmetic in every compiler used here (tested). */
static inline void mj_product_sums(const uint32_t *x, const uint32_t *weights, int32_t depth, int32_t start_low,
                                   int32_t start_high, int32_t sums[8])
{
    for (int32_t p = 0; p < 4; ++p) {
        uint32_t high = (uint32_t)start_high, low = (uint32_t)start_low;
        for (int32_t k = 0; k < depth; ++k) {
            const uint32_t data = x[4 * k + p], lanes = weights[k];
            const int32_t first = (int16_t)(data & 0xFFFFu), second = (int16_t)(data >> 16);
            high += (uint32_t)(first * (int16_t)(lanes & 0xFFFFu)) + (uint32_t)(second * (int16_t)(lanes >> 16));
            low += (uint32_t)(first * (int8_t)(lanes & 0xFFu)) + (uint32_t)(second * (int8_t)(lanes >> 16 & 0xFFu));
        }
        sums[p] = (int32_t)low;
        sums[4 + p] = (int32_t)(high - low) >> 8;
    }
}

#endif
