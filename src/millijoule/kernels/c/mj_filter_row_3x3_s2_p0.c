#include "mj_filter_row.h"

/* 3 x 3 taps, stride 2, the first column in the low half of its word. */
void mj_filter_row_3x3_s2_p0(const mj_filter_row *f)
{
    mj_filter_row_blocks(f, 2, 0);
}
