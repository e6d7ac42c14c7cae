#include "mj_conv_depthwise.h"

/* mj_conv2d_s8 or mj_pointwise_s8, then mj_depthwise_s8, without the whole map between them */
void mj_conv_depthwise_s8(const int8_t *x, int8_t *y, const mj_conv_depthwise *pair, void *scratch)
{
    mj_conv_depthwise_rows(x, y, pair, scratch, mj_is_pointwise(pair->conv) ? mj_pointwise_s8 : mj_conv2d_s8,
                           mj_depthwise_s8);
}
