/* Sums of four channels over pixels, for means. */
#ifndef MJ_SUM_PIXELS_H
#define MJ_SUM_PIXELS_H

#include "mj_dsp.h"

#define MJ_MOST_PIXELS 256 /* 256 * -128 is the least that 16 bits hold */

/* Adds four channels of pixels that lie `distance` bytes apart to four sums: SXTAB16 sums them in halves of 16 bits,
 * which are emptied before they overflow. */
static inline void mj_sum_pixels(const int8_t *from, int32_t pixels, int32_t distance, int32_t *sums)
{
    for (int32_t left = pixels; left > 0; left -= MJ_MOST_PIXELS) {
        uint32_t even = 0, odd = 0;
        for (int32_t p = left < MJ_MOST_PIXELS ? left : MJ_MOST_PIXELS; p > 0; --p, from += distance) {
            const uint32_t word = mj_load_s8x4(from);
            even = mj_sxtab16(even, word);
            odd = mj_sxtab16_ror8(odd, word);
        }
        sums[0] += (int16_t)even;
        sums[1] += (int16_t)odd;
        sums[2] += (int16_t)(even >> 16);
        sums[3] += (int16_t)(odd >> 16);
    }
}

#endif
