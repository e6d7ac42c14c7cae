#include "mj_filter_row.h"

/* 7 x 7 taps, stride 2, the first column in the high half of its word. */
void mj_filter_row_7x7_s2_p1(const mj_filter_row *f)
{
    mj_filter_row_blocks(f, 2, 1);
}
