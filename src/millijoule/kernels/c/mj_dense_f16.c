#define MJ_NUMBER uint16_t
#define MJ_VALUE mj_half
#include "mj_half.h"
#include "mj_float_layers.h"

/* Weights and biases are 16-bit floats. */
void mj_dense_f16(const float *x, const uint16_t *weights, const uint16_t *bias, float *y, int32_t in_features,
                  int32_t out_features, float low, float high)
{
    mj_float_dense(x, weights, bias, y, in_features, out_features, low, high);
}
