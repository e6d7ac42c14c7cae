#include "mj_kernels.h"
#include "mj_requantize.h"

/* x (in_height, in_width, in_channels), weights (out_channels, kernel_height, kernel_width, in_channels)
 * -> y (out_height, out_width, out_channels) */
void mj_conv2d_s8(const int8_t *x, const int8_t *weights, const int32_t *bias, int8_t *y, const mj_window *window,
                  const mj_requant *requant, void *scratch)
{
    (void)scratch;
    const int32_t channels = window->in_channels;
    for (int32_t oy = 0; oy < window->out_height; ++oy) {
        for (int32_t ox = 0; ox < window->out_width; ++ox) {
            const int8_t *w = weights;
            for (int32_t oc = 0; oc < window->out_channels; ++oc) {
                int32_t acc = bias[oc];
                for (int32_t ky = 0; ky < window->kernel_height; ++ky) {
                    const int32_t iy = oy * window->stride_height - window->pad_top + ky * window->dilation_height;
                    for (int32_t kx = 0; kx < window->kernel_width; ++kx, w += channels) {
                        const int32_t ix = ox * window->stride_width - window->pad_left + kx * window->dilation_width;
                        if (iy < 0 || iy >= window->in_height || ix < 0 || ix >= window->in_width) {
                            for (int32_t ic = 0; ic < channels; ++ic) {
                                acc += requant->in_zero * w[ic];
                            }
                            continue;
                        }
                        const int8_t *pixel = x + (iy * window->in_width + ix) * channels;
                        for (int32_t ic = 0; ic < channels; ++ic) {
                            acc += pixel[ic] * w[ic];
                        }
                    }
                }
                *y++ = mj_requantize_s8(acc, requant->multiplier[oc], requant->shift[oc], requant->out_zero,
                                        requant->low, requant->high);
            }
        }
    }
}
