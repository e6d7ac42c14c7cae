#include "mj_dsp.h"
#include "mj_rows_dynamic.h"

typedef struct {
    int32_t lowest, highest;
} limits;

static inline __attribute__((always_inline)) void move(limits *limit, int32_t sum)
{
    limit->lowest = sum < limit->lowest ? sum : limit->lowest;
    limit->highest = sum > limit->highest ? sum : limit->highest;
}

/* x: three words of a column pair in the order of the slots; a, b: taps (w0, w1) and (w1, w2) in that order. */
static inline __attribute__((always_inline)) int32_t even(const uint32_t *x, const uint32_t *a, const uint32_t *c,
                                                          int32_t sum)
{
    for (int32_t row = 0; row < 3; ++row) {
        sum = mj_smlad(x[row], a[row], sum);
        sum = mj_smlabb(x[3 + row], c[row], sum);
    }
    return sum;
}

static inline __attribute__((always_inline)) int32_t odd(const uint32_t *x, const uint32_t *a, const uint32_t *c,
                                                         int32_t sum)
{
    for (int32_t row = 0; row < 3; ++row) {
        sum = mj_smlatt(x[row], a[row], sum);
        sum = mj_smlad(x[3 + row], c[row], sum);
    }
    return sum;
}

/* 3 x 3, slots = 3: a row of a depthwise convolution of which only the limits of each channel's sums are kept. */
void mj_filter_range_3x3(const mj_filter_row *f)
{
    for (int32_t channel = 0; channel < f->channels; ++channel) {
        mj_filter_limits *filter = (mj_filter_limits *)(uintptr_t)(f->filters + (channel * f->filter_bytes >> 2));
        const uint32_t *x = f->planes + (channel * f->plane >> 2);
        limits limit = {filter->lowest, filter->highest};
        const int32_t bias = filter->bias;
        uint32_t first[3], second[3], third[3], shifted[3];
        int32_t slot = f->top;
        for (int32_t row = 0; row < 3; ++row) {
            first[slot] = filter->taps[2 * row];              /* (w0, w1) */
            second[slot] = filter->taps[2 * row + 1];         /* (w1, w2) */
            third[slot] = filter->taps[2 * row + 1] >> 16;    /* w2 */
            shifted[slot] = filter->taps[2 * row] << 16;      /* (0, w0) */
            slot = slot < 2 ? slot + 1 : 0;
        }
        int32_t p = 0;
        if (f->stride == 2) {
            for (; p < f->pixels; ++p, x += 3) {
                move(&limit, f->phase ? odd(x, shifted, second, bias) : even(x, first, third, bias));
            }
        } else {
            if (f->phase) {
                move(&limit, odd(x, shifted, second, bias));
                ++p;
                x += 3;
            }
            for (; p + 2 <= f->pixels; p += 2, x += 3) {
                move(&limit, even(x, first, third, bias));
                move(&limit, odd(x, shifted, second, bias));
            }
            if (p < f->pixels) {
                move(&limit, even(x, first, third, bias));
            }
        }
        filter->lowest = limit.lowest;
        filter->highest = limit.highest;
    }
}
