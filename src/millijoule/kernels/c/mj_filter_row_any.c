#include "mj_filter_row.h"

#define MJ_BLOCKS(stride, phase)                                                                                        \
    static __attribute__((noinline)) void blocks_##stride##phase(const mj_filter_row *f)                               \
    {                                                                                                                  \
        mj_filter_row_blocks(f, stride, phase);                                                                        \
    }

MJ_BLOCKS(1, 0)
MJ_BLOCKS(1, 1)
MJ_BLOCKS(2, 0)
MJ_BLOCKS(2, 1)

/* Any window: a row of a depthwise convolution from planes to groups. */
void mj_filter_row_any(const mj_filter_row *f)
{
    if (f->slots * 2 * ((f->width >> 1) + 1) > MJ_FILTER_TABLE) {
        mj_filter_row_window(f, f->slots, f->width, f->stride, f->phase);
    } else if (f->stride == 1) {
        (f->phase ? blocks_11 : blocks_10)(f);
    } else {
        (f->phase ? blocks_21 : blocks_20)(f);
    }
}
