#include "mj_float.h"
#include "mj_kernels.h"

/* x (in_features), weights (out_features, in_features) -> y (out_features); bias may be NULL */
void mj_dense_f32(const float *x, const float *weights, const float *bias, float *y, int32_t in_features,
                  int32_t out_features, float low, float high)
{
    for (int32_t o = 0; o < out_features; ++o, weights += in_features) {
        float acc = bias ? bias[o] : 0.0f;
        for (int32_t i = 0; i < in_features; ++i) {
            acc += x[i] * weights[i];
        }
        y[o] = mj_clamp_float(acc, low, high);
    }
}
