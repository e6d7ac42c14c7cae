/* The raw sums of a row of a depthwise convolution in plain C; mj_rows.h is the contract. */
#ifndef MJ_FILTER_SUMS_H
#define MJ_FILTER_SUMS_H

#include "mj_dsp.h"
#include "mj_rows.h"

/* The sum of channel c at output p, `bias` included. No word is read that holds no column of the window. */
static inline int32_t mj_filter_sum(const mj_filter_row *f, const mj_filter *filter, int32_t c, int32_t p)
{
    const int32_t words = f->width == 3 ? 2 : (f->width + 1) >> 1; /* of one row of taps */
    const int16_t *plane = (const int16_t *)(const void *)(f->planes + (c * f->plane >> 2));
    int32_t sum = filter->bias, slot = f->top;
    for (int32_t row = 0; row < f->slots; ++row) {
        const uint32_t *taps = filter->taps + row * words;
        for (int32_t tap = 0; tap < f->width; ++tap) {
            /* three taps lie as (w0, w1), (w1, w2) */
            const uint32_t pair = f->width == 3 && tap == 2 ? taps[1] >> 16 : taps[tap >> 1] >> (tap & 1 ? 16 : 0);
            const int32_t column = f->phase + p * f->stride + tap;
            sum += plane[2 * ((column >> 1) * f->slots + slot) + (column & 1)] * (int16_t)(pair & 0xFFFFu);
        }
        slot = slot + 1 < f->slots ? slot + 1 : 0;
    }
    return sum;
}

#endif
