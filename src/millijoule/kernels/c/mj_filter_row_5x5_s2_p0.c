#include "mj_filter_row.h"

/* 5 x 5 taps, stride 2, the first column in the low half of its word. */
void mj_filter_row_5x5_s2_p0(const mj_filter_row *f)
{
    mj_filter_row_blocks(f, 2, 0);
}
