#include "mj_filter_row.h"

/* 3 x 3 taps, stride 1, the first column in the high half of its word. */
void mj_filter_row_3x3_s1_p1(const mj_filter_row *f)
{
    mj_filter_row_blocks(f, 1, 1);
}
