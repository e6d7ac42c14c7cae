#include "mj_filter_relu.h"

/* A row of stored sums of a depthwise convolution to groups, where the lower bound is zero. */
void mj_filter_row_stored(const mj_filter_row *f)
{
    mj_filter_front *front = (mj_filter_front *)(uintptr_t)f->filters - 1;
    const int32_t padded = (f->pixels + 3) / 4 * 4;
    for (int32_t c = 0; c < f->channels; c += 2) {
        const int32_t both = c + 1 < f->channels;
        mj_relu_rows(f, c, front->sums.next, front->sums.next + both * padded, padded);
        front->sums.next += (1 + both) * padded;
    }
}
