/* A row of a depthwise convolution from planes to groups in plain C; mj_rows.h is the contract. */
#ifndef MJ_FILTER_ROW_H
#define MJ_FILTER_ROW_H

#include "mj_dsp.h"
#include "mj_requantize.h"
#include "mj_rows.h"

static inline int32_t mj_filter_requantize(int32_t sum, const mj_filter *filter)
{
#if defined(MJ_ROUNDING_SINGLE)
    return ((int32_t)(((int64_t)sum * filter->multiplier) >> 32) + filter->addend) >> filter->shift;
#elif defined(MJ_ROUNDING_MULHI)
    return (int32_t)(((int64_t)sum * filter->multiplier + (INT64_C(1) << 31)) >> 32) + filter->addend;
#else
    return mj_requantize(sum, filter->multiplier, -filter->shift) + filter->addend;
#endif
}

/* One row of a window: x is the word with its first column, `step` words lie between column pairs. Constant arguments
 * make straight code. No word is read that holds no column of the window. */
static inline __attribute__((always_inline)) int32_t mj_filter_taps(const uint32_t *x, const uint32_t *taps,
                                                                    int32_t width, int32_t step, int32_t high,
                                                                    int32_t sum)
{
    for (int32_t tap = 0; tap < width; tap += 2, x += step) {
        /* three taps lie as (w0, w1), (w1, w2) */
        const uint32_t w = width == 3 && tap == 2 ? taps[1] >> 16 : taps[tap >> 1];
        if (!high) {
            sum = mj_smlad(*x, w, sum); /* the other half of an odd last word is zero */
        } else if (tap + 1 < width) {
            sum = mj_smlad(x[0] >> 16 | x[step] << 16, w, sum);
        } else {
            sum += (int16_t)(*x >> 16) * (int16_t)w;
        }
    }
    return sum;
}

static inline __attribute__((always_inline)) void mj_filter_row_window(const mj_filter_row *f, int32_t height,
                                                                       int32_t width, int32_t stride, int32_t phase)
{
    const int32_t words = width == 3 ? 2 : (width + 1) >> 1; /* of one row of taps */
    const int32_t low = (int16_t)f->low, high = (int16_t)f->high;
    for (int32_t c = 0; c < f->channels; ++c) {
        const uint32_t *plane = f->planes + (c * f->plane >> 2);
        const mj_filter *filter = (const mj_filter *)(const void *)(f->filters + (c * f->filter_bytes >> 2));
        int16_t *y = (int16_t *)(void *)(f->groups + (c >> 1) * 4) + (c & 1);
        for (int32_t p = 0; p < f->pixels; ++p) {
            const int32_t column = phase + p * stride;
            const uint32_t *x = plane + (column >> 1) * height;
            int32_t sum = filter->bias;
            int32_t slot = f->top;
            for (int32_t row = 0; row < height; ++row) {
                sum = mj_filter_taps(x + slot, filter->taps + row * words, width, height, column & 1, sum);
                slot = slot + 1 < height ? slot + 1 : 0;
            }
            y[(p >> 2) * (f->group >> 1) + (p & 3) * 2] =
                (int16_t)mj_clamp(mj_filter_requantize(sum, filter), low, high);
        }
    }
}

/* words of taps in a table of `mj_filter_row_blocks` */
#define MJ_FILTER_TABLE 128

/* The taps of a channel twice, slot by slot: first from an even column on, (w0, w1), (w2, w3), ..., then from an odd one
 * on, (0, w0), (w1, w2), ...; half words that are left over are zero. `words` of the second form are one row. */
static inline void mj_filter_table(const mj_filter_row *f, const mj_filter *filter, uint32_t *table, int32_t words)
{
    const int32_t width = f->width, packed = width == 3 ? 2 : (width + 1) >> 1;
    int32_t slot = f->top;
    for (int32_t row = 0; row < f->slots; ++row) {
        const uint32_t *taps = filter->taps + row * packed;
        uint32_t *even = table + slot * 2 * words, *odd = even + words, before = 0;
        for (int32_t k = 0; k < words; ++k) {
            uint32_t pair = k < packed ? taps[k] : 0;
            if (width == 3 && k == 1) {
                pair >>= 16;
            }
            even[k] = pair;
            odd[k] = before | pair << 16;
            before = pair >> 16;
        }
        slot = slot + 1 < f->slots ? slot + 1 : 0;
    }
}

/* Any window whose tables fit: four outputs at a time. */
static inline __attribute__((always_inline)) void mj_filter_row_blocks(const mj_filter_row *f, int32_t stride,
                                                                       int32_t phase)
{
    uint32_t table[MJ_FILTER_TABLE];
    const int32_t height = f->slots, words = (f->width >> 1) + 1;
    /* the last word of an even row has no tap when the width is even: the column may lie outside the plane */
    const int32_t both = (f->width + 1) >> 1;
    const int32_t low = (int16_t)f->low, high = (int16_t)f->high;
    for (int32_t c = 0; c < f->channels; ++c) {
        const mj_filter *filter = (const mj_filter *)(const void *)(f->filters + (c * f->filter_bytes >> 2));
        int16_t *y = (int16_t *)(void *)(f->groups + (c >> 1) * 4) + (c & 1);
        const uint32_t *block = f->planes + (c * f->plane >> 2);
        mj_filter_table(f, filter, table, words);
        for (int32_t p = 0; p < f->pixels; p += 4, block += 2 * stride * height, y += f->group >> 1) {
            int32_t sum[4] = {filter->bias, filter->bias, filter->bias, filter->bias};
            const uint32_t *taps = table;
            for (int32_t slot = 0; slot < height; ++slot, taps += 2 * words) {
                const uint32_t *x = block + slot;
                for (int32_t k = 0; k < both; ++k, x += height) {
                    for (int32_t i = 0; i < 4; ++i) {
                        const int32_t column = phase + i * stride;
                        sum[i] = mj_smlad(x[(column >> 1) * height], taps[k + (column & 1 ? words : 0)], sum[i]);
                    }
                }
                for (int32_t i = 0; both < words && i < 4; ++i) {
                    const int32_t column = phase + i * stride;
                    if (column & 1) {
                        sum[i] = mj_smlad(x[(column >> 1) * height], taps[both + words], sum[i]);
                    }
                }
            }
            for (int32_t i = 0; i < 4; ++i) {
                y[2 * i] = (int16_t)mj_clamp(mj_filter_requantize(sum[i], filter), low, high);
            }
        }
    }
}

#endif
