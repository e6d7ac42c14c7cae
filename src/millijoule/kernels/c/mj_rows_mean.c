#include "mj_requantize.h"
#include "mj_row_steps.h"
#include "mj_sum_pixels.h"

void mj_rows_mean_take(const mj_rows *r, const int8_t *x, int32_t first, int32_t count, int32_t distance)
{
    int32_t *sums = r->mean->sums + first;
    int32_t c = 0;
    for (; c + 4 <= count; c += 4, sums += 4) {
        mj_sum_pixels(x + c, r->out_width, distance, sums);
    }
    for (; c < count; ++c, ++sums) { /* one to three channels are left */
        for (int32_t p = 0; p < r->out_width; ++p) {
            *sums += x[p * distance + c];
        }
    }
}

/* The means may lie over the sums: the first of them takes bytes of the first sum, which has been read by then. */
void mj_rows_mean_finish(const mj_rows *r)
{
    const mj_rows_mean *m = r->mean;
    for (int32_t c = 0; c < r->out_channels; ++c) {
        r->state->y[c] = mj_requantize_s8(m->sums[c], m->multiplier, m->shift, m->zero, m->low, m->high);
    }
}

/* One row of a pointwise convolution, `slice` channels at a time. */
void mj_rows_mean_slices(const mj_rows *r, int32_t first_pixel, int32_t pixels)
{
    for (int32_t first = 0; first < r->out_channels; first += r->slice) {
        const int32_t count = r->out_channels - first < r->slice ? r->out_channels - first : r->slice;
        multiply(r->conv, first, count, r->conv_groups + first_pixel * r->conv->depth, pixels, r->row, r->slice, 0);
        r->mean->take(r, r->row, first, count, r->slice);
    }
    ++r->state->delivered;
}
