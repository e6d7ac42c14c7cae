#include "mj_float.h"
#include "mj_half.h"
#include "mj_kernels.h"

/* x (in_features), weights (out_features, in_features) -> y (out_features); bias may be NULL; both are 16-bit floats */
void mj_dense_f16(const float *x, const uint16_t *weights, const uint16_t *bias, float *y, int32_t in_features,
                  int32_t out_features, float low, float high)
{
    for (int32_t o = 0; o < out_features; ++o, weights += in_features) {
        float acc = bias ? mj_half(bias[o]) : 0.0f;
        for (int32_t i = 0; i < in_features; ++i) {
            acc += x[i] * mj_half(weights[i]);
        }
        y[o] = mj_clamp_float(acc, low, high);
    }
}
