#include "mj_row_steps.h"
#include "mj_rows_dynamic.h"

static float *sums_of(const mj_rows *r)
{
    return (float *)(void *)r->mean->sums;
}

/* Adds `pixels` pixels, `step` floats apart: each channel in the order of mj_mean_f32, one pixel after the other. */
static inline __attribute__((always_inline)) void add(float *sums, const float *x, int32_t channels, int32_t pixels,
                                                      int32_t step, int32_t bounded, float low, float high)
{
    int32_t c = 0;
    for (; c + 4 <= channels; c += 4, sums += 4, x += 4) {
        float four[4] = {sums[0], sums[1], sums[2], sums[3]};
        const float *from = x;
        MJ_ROLLED
        for (int32_t p = 0; p < pixels; ++p, from += step) {
            for (int32_t i = 0; i < 4; ++i) {
                four[i] += bounded ? mj_clamp_float(from[i], low, high) : from[i];
            }
        }
        __builtin_memcpy(sums, four, sizeof four);
    }
    for (; c < channels; ++c, ++sums, ++x) { /* one to three channels are left */
        MJ_ROLLED
        for (int32_t p = 0; p < pixels; ++p) {
            *sums += bounded ? mj_clamp_float(x[p * step], low, high) : x[p * step];
        }
    }
}

void mj_rows_mean_floats_take(const mj_rows *r, const int8_t *x, int32_t first, int32_t count, int32_t distance)
{
    const mj_rows_mean_floats *m = (const mj_rows_mean_floats *)(const void *)r->mean;
    const float *values = (const float *)(const void *)x;
    float *sums = sums_of(r) + first / 4;
    if (m->bounded) {
        add(sums, values, count / 4, r->out_width, distance / 4, 1, m->low, m->high);
    } else {
        add(sums, values, count / 4, r->out_width, distance / 4, 0, 0.0f, 0.0f);
    }
}

/* The means may lie over the sums. */
void mj_rows_mean_floats_finish(const mj_rows *r)
{
    const float *sums = sums_of(r);
    float *y = (float *)(void *)r->state->y;
    MJ_ROLLED
    for (int32_t c = 0; c < r->out_channels / 4; ++c) {
        y[c] = sums[c] / (float)(r->out_height * r->out_width);
    }
}

/* One row of a pointwise convolution, `slice` bytes of floats at a time. */
void mj_rows_mean_floats_slices(const mj_rows *r, int32_t first_pixel, int32_t pixels)
{
    for (int32_t first = 0; first < r->out_channels; first += r->slice) {
        const int32_t count = r->out_channels - first < r->slice ? r->out_channels - first : r->slice;
        multiply(r->conv, first / 4, count / 4, r->conv_groups + first_pixel * r->conv->depth, pixels, r->row, r->slice, 0);
        mj_rows_mean_floats_take(r, r->row, first, count, r->slice);
    }
    ++r->state->delivered;
}
