#include "mj_filter_3x3.h"
#include "mj_filter_relu.h"

MJ_ROW_3X3(dense, mj_dense_3x3, 1)
MJ_ROW_3X3(spaced, mj_spaced_3x3, 1)

/* 3 x 3, slots = 3: a row of at most 64 pixels of a depthwise convolution to groups, where the lower bound is zero. */
void mj_filter_row_relu_3x3(const mj_filter_row *f)
{
    int32_t sums[2][MJ_RELU_PIXELS];
    const int32_t padded = (f->pixels + 3) / 4 * 4;
    for (int32_t c = 0; c < f->channels; c += 2) {
        for (int32_t i = 0; i < 2 && c + i < f->channels; ++i) {
            const uint32_t *filter = f->filters + ((c + i) * f->filter_bytes >> 2);
            mj_channel_3x3 channel = mj_taps_3x3(f, (const mj_filter *)(const void *)filter);
            (f->stride == 2 ? spaced : dense)(f->planes + ((c + i) * f->plane >> 2), &channel, f, sums[i]);
            mj_fill_up(sums[i], f->pixels);
        }
        mj_relu_rows(f, c, sums[0], sums[c + 1 < f->channels ? 1 : 0], padded);
    }
}
