#define MJ_NUMBER uint16_t
#define MJ_VALUE mj_half
#include "mj_half.h"
#include "mj_float_layers.h"

/* Weights and biases are 16-bit floats. */
void mj_conv2d_f16(const float *x, const uint16_t *weights, const uint16_t *bias, float *y, const mj_window *window,
                   float low, float high)
{
    mj_float_conv2d(x, weights, bias, y, window, low, high);
}
