#include "mj_filter_row.h"

/* Any window: a row of a depthwise convolution from planes to groups. */
void mj_filter_row_any(const mj_filter_row *f)
{
    mj_filter_row_window(f, f->slots, f->width, f->stride, f->phase);
}
