#include "mj_filter_sums.h"
#include "mj_rows_dynamic.h"

/* Any window: a row of a depthwise convolution of which only the limits of each channel's sums are kept, or all of
 * them. */
void mj_filter_range_any(const mj_filter_row *f)
{
    mj_filter_front *front = (mj_filter_front *)(uintptr_t)f->filters - 1;
    for (int32_t c = 0; c < f->channels; ++c) {
        const mj_filter *filter = (const mj_filter *)(const void *)(f->filters + (c * f->filter_bytes >> 2));
        mj_filter_limits *limits = (mj_filter_limits *)(uintptr_t)filter;
        int32_t lowest = limits->lowest, highest = limits->highest;
        for (int32_t p = 0; p < f->pixels; ++p) {
            const int32_t sum = mj_filter_sum(f, filter, c, p);
            lowest = sum < lowest ? sum : lowest;
            highest = sum > highest ? sum : highest;
            if (front->sums.next != 0) {
                front->sums.next[p] = sum;
            }
        }
        if (front->sums.next != 0) {
            front->sums.next += mj_fill_up(front->sums.next, f->pixels);
        }
        limits->lowest = lowest;
        limits->highest = highest;
    }
}
