#include "mj_float.h"
#include "mj_half.h"
#include "mj_kernels.h"

/* x (in_height, in_width, channels), weights (kernel_height, kernel_width, channels)
 * -> y (out_height, out_width, channels); bias may be NULL; both are 16-bit floats */
void mj_depthwise_f16(const float *x, const uint16_t *weights, const uint16_t *bias, float *y, const mj_window *window,
                      float low, float high)
{
    const int32_t channels = window->in_channels;
    for (int32_t oy = 0; oy < window->out_height; ++oy) {
        for (int32_t ox = 0; ox < window->out_width; ++ox) {
            for (int32_t c = 0; c < channels; ++c) {
                float acc = bias ? mj_half(bias[c]) : 0.0f;
                for (int32_t ky = 0; ky < window->kernel_height; ++ky) {
                    const int32_t iy = oy * window->stride_height - window->pad_top + ky * window->dilation_height;
                    for (int32_t kx = 0; kx < window->kernel_width; ++kx) {
                        const int32_t ix = ox * window->stride_width - window->pad_left + kx * window->dilation_width;
                        if (iy >= 0 && iy < window->in_height && ix >= 0 && ix < window->in_width) {
                            acc += x[(iy * window->in_width + ix) * channels + c] *
                                   mj_half(weights[(ky * window->kernel_width + kx) * channels + c]);
                        }
                    }
                }
                *y++ = mj_clamp_float(acc, low, high);
            }
        }
    }
}
