#include "mj_filter_3x3.h"

MJ_ROW_3X3(dense_kept, mj_dense_3x3, 1)
MJ_ROW_3X3(dense_ranged, mj_dense_3x3, 0)
MJ_ROW_3X3(spaced_kept, mj_spaced_3x3, 1)
MJ_ROW_3X3(spaced_ranged, mj_spaced_3x3, 0)

/* 3 x 3, slots = 3: a row of a depthwise convolution of which only the limits of each channel's sums are kept, or all
 * of them. */
void mj_filter_range_3x3(const mj_filter_row *f)
{
    mj_filter_front *front = (mj_filter_front *)(uintptr_t)f->filters - 1;
    int32_t *out = front->sums.next;
    for (int32_t i = 0; i < f->channels; ++i) {
        mj_filter *filter = (mj_filter *)(uintptr_t)(f->filters + (i * f->filter_bytes >> 2));
        mj_filter_limits *limits = (mj_filter_limits *)(void *)filter;
        const uint32_t *x = f->planes + (i * f->plane >> 2);
        mj_channel_3x3 c = mj_taps_3x3(f, filter);
        c.lowest = limits->lowest;
        c.highest = limits->highest;
        if (out != 0) {
            (f->stride == 2 ? spaced_kept : dense_kept)(x, &c, f, out);
            out += mj_fill_up(out, f->pixels);
        } else {
            (f->stride == 2 ? spaced_ranged : dense_ranged)(x, &c, f, out);
        }
        limits->lowest = c.lowest;
        limits->highest = c.highest;
    }
    front->sums.next = out;
}
