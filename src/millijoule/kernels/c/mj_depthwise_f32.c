#include "mj_float_layers.h"

void mj_depthwise_f32(const float *x, const float *weights, const float *bias, float *y, const mj_window *window,
                      float low, float high)
{
    mj_float_depthwise(x, weights, bias, y, window, low, high);
}
