#include "mj_float_layers.h"

void mj_dense_f32(const float *x, const float *weights, const float *bias, float *y, int32_t in_features,
                  int32_t out_features, float low, float high)
{
    mj_float_dense(x, weights, bias, y, in_features, out_features, low, high);
}
