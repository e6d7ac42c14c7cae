#include "mj_requantize.h"
#include "mj_row_steps.h"

#define MJ_MOST_PIXELS 256 /* 256 * -128 is the least that 16 bits hold */

void mj_rows_mean_take(const mj_rows *r, const int8_t *x, int32_t first, int32_t count, int32_t distance)
{
    int32_t *sums = r->mean->sums + first;
    int32_t c = 0;
    for (; c + 4 <= count; c += 4, sums += 4) { /* SXTAB16 sums four channels in halves of 16 bits */
        const int8_t *from = x + c;
        for (int32_t left = r->out_width; left > 0; left -= MJ_MOST_PIXELS) {
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
    for (; c < count; ++c, ++sums) { /* one to three channels are left */
        for (int32_t p = 0; p < r->out_width; ++p) {
            *sums += x[p * distance + c];
        }
    }
}

void mj_rows_mean_finish(const mj_rows *r)
{
    const mj_rows_mean *m = r->mean;
    for (int32_t c = 0; c < r->out_channels; ++c) {
        r->state->y[c] = mj_requantize_s8(m->sums[c], m->multiplier, m->shift, m->zero, m->low, m->high);
    }
}

/* One row of a pointwise convolution, `slice` channels at a time. */
void mj_rows_mean_slices(const mj_rows *r)
{
    for (int32_t first = 0; first < r->out_channels; first += r->slice) {
        const int32_t count = r->out_channels - first < r->slice ? r->out_channels - first : r->slice;
        multiply(r->conv, first, count, r->conv_groups, r->out_width, r->row, r->slice, 0);
        r->mean->take(r, r->row, first, count, r->slice);
    }
    ++r->state->delivered;
}
