#include "mj_conv_depthwise.h"

/* mj_conv2d_s8_dsp or mj_pointwise_s8_dsp, then mj_depthwise_s8_dsp, without the whole map between them; weights in the
 * orders of these kernels */
void mj_conv_depthwise_s8_dsp(const int8_t *x, int8_t *y, const mj_conv_depthwise *pair, void *scratch)
{
    mj_conv_depthwise_rows(x, y, pair, scratch, mj_is_pointwise(pair->conv) ? mj_pointwise_s8_dsp : mj_conv2d_s8_dsp,
                           mj_depthwise_s8_dsp);
}
