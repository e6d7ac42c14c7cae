#include "mj_dynamic.h"
#include "mj_kernels.h"

/* x (in_features), weights (out_features, in_features) -> y (out_features); scratch: the input as int8 */
void mj_dense_dyn(const float *x, const int8_t *weights, const float *bias, float *y, int32_t in_features,
                  int32_t out_features, const mj_dynamic *dynamic, void *scratch)
{
    int8_t *quantized = scratch;
    const mj_dynamic_range range = mj_dynamic_quantize(x, quantized, in_features);
    for (int32_t o = 0; o < out_features; ++o, weights += in_features) {
        int32_t acc = -range.zero * dynamic->weight_sums[o];
        for (int32_t i = 0; i < in_features; ++i) {
            acc += quantized[i] * weights[i];
        }
        const float real = (float)acc * (range.scale * dynamic->weight_scale[o]);
        y[o] = mj_clamp_float(bias ? real + bias[o] : real, dynamic->low, dynamic->high);
    }
}
