#include "mj_kernels.h"
#include "mj_requantize.h"

/* x (in_features), weights (out_features, in_features) -> y (out_features) */
void mj_dense_s8(const int8_t *x, const int8_t *weights, const int32_t *bias, int8_t *y, int32_t in_features,
                 int32_t out_features, const mj_requant *requant, void *scratch)
{
    (void)scratch;
    for (int32_t o = 0; o < out_features; ++o, weights += in_features) {
        int32_t acc = bias[o];
        for (int32_t i = 0; i < in_features; ++i) {
            acc += x[i] * weights[i];
        }
        y[o] = mj_requantize_s8(acc, requant->multiplier[o], requant->shift[o], requant->out_zero, requant->low,
                                requant->high);
    }
}
