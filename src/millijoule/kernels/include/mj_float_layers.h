#ifndef MJ_FLOAT_LAYERS_H
#define MJ_FLOAT_LAYERS_H

/* Layers of float maps. Weights and biases are of type MJ_NUMBER, and MJ_VALUE makes a float of one: floats as they are,
 * unless the file that includes this defines both. */

#include "mj_float.h"
#include "mj_kernels.h"

#ifndef MJ_NUMBER
#define MJ_NUMBER float
#define MJ_VALUE(number) (number)
#endif

/* x (in_height, in_width, in_channels), weights (out_channels, kernel_height, kernel_width, in_channels)
 * -> y (out_height, out_width, out_channels); bias may be NULL */
static inline void mj_float_conv2d(const float *x, const MJ_NUMBER *weights, const MJ_NUMBER *bias, float *y,
                                   const mj_window *window, float low, float high)
{
    const int32_t channels = window->in_channels;
    for (int32_t oy = 0; oy < window->out_height; ++oy) {
        for (int32_t ox = 0; ox < window->out_width; ++ox) {
            const MJ_NUMBER *w = weights;
            for (int32_t oc = 0; oc < window->out_channels; ++oc) {
                float acc = bias ? MJ_VALUE(bias[oc]) : 0.0f;
                for (int32_t ky = 0; ky < window->kernel_height; ++ky) {
                    const int32_t iy = oy * window->stride_height - window->pad_top + ky * window->dilation_height;
                    for (int32_t kx = 0; kx < window->kernel_width; ++kx, w += channels) {
                        const int32_t ix = ox * window->stride_width - window->pad_left + kx * window->dilation_width;
                        if (iy < 0 || iy >= window->in_height || ix < 0 || ix >= window->in_width) {
                            continue;
                        }
                        const float *pixel = x + (iy * window->in_width + ix) * channels;
                        for (int32_t ic = 0; ic < channels; ++ic) {
                            acc += pixel[ic] * MJ_VALUE(w[ic]);
                        }
                    }
                }
                *y++ = mj_clamp_float(acc, low, high);
            }
        }
    }
}

/* x (in_height, in_width, channels), weights (kernel_height, kernel_width, channels)
 * -> y (out_height, out_width, channels); bias may be NULL */
static inline void mj_float_depthwise(const float *x, const MJ_NUMBER *weights, const MJ_NUMBER *bias, float *y,
                                      const mj_window *window, float low, float high)
{
    const int32_t channels = window->in_channels;
    for (int32_t oy = 0; oy < window->out_height; ++oy) {
        for (int32_t ox = 0; ox < window->out_width; ++ox) {
            for (int32_t c = 0; c < channels; ++c) {
                float acc = bias ? MJ_VALUE(bias[c]) : 0.0f;
                for (int32_t ky = 0; ky < window->kernel_height; ++ky) {
                    const int32_t iy = oy * window->stride_height - window->pad_top + ky * window->dilation_height;
                    for (int32_t kx = 0; kx < window->kernel_width; ++kx) {
                        const int32_t ix = ox * window->stride_width - window->pad_left + kx * window->dilation_width;
                        if (iy >= 0 && iy < window->in_height && ix >= 0 && ix < window->in_width) {
                            acc += x[(iy * window->in_width + ix) * channels + c] *
                                   MJ_VALUE(weights[(ky * window->kernel_width + kx) * channels + c]);
                        }
                    }
                }
                *y++ = mj_clamp_float(acc, low, high);
            }
        }
    }
}

/* x (in_features), weights (out_features, in_features) -> y (out_features); bias may be NULL */
static inline void mj_float_dense(const float *x, const MJ_NUMBER *weights, const MJ_NUMBER *bias, float *y,
                                  int32_t in_features, int32_t out_features, float low, float high)
{
    for (int32_t o = 0; o < out_features; ++o, weights += in_features) {
        float acc = bias ? MJ_VALUE(bias[o]) : 0.0f;
        for (int32_t i = 0; i < in_features; ++i) {
            acc += x[i] * MJ_VALUE(weights[i]);
        }
        y[o] = mj_clamp_float(acc, low, high);
    }
}

#endif
