#include "mj_dynamic.h"
#include "mj_kernels.h"

/* x (in_height, in_width, in_channels), weights (out_channels, kernel_height, kernel_width, in_channels)
 * -> y (out_height, out_width, out_channels); scratch: the input as int8 */
void mj_conv2d_dyn(const float *x, const int8_t *weights, const float *bias, float *y, const mj_window *window,
                   const mj_dynamic *dynamic, void *scratch)
{
    int8_t *quantized = scratch;
    const int32_t channels = window->in_channels;
    const mj_dynamic_range range =
        mj_dynamic_quantize(x, quantized, (int32_t)window->in_height * window->in_width * channels);
    for (int32_t oy = 0; oy < window->out_height; ++oy) {
        for (int32_t ox = 0; ox < window->out_width; ++ox) {
            const int8_t *w = weights;
            for (int32_t oc = 0; oc < window->out_channels; ++oc) {
                int32_t acc = -range.zero * dynamic->weight_sums[oc];
                for (int32_t ky = 0; ky < window->kernel_height; ++ky) {
                    const int32_t iy = oy * window->stride_height - window->pad_top + ky * window->dilation_height;
                    for (int32_t kx = 0; kx < window->kernel_width; ++kx, w += channels) {
                        const int32_t ix = ox * window->stride_width - window->pad_left + kx * window->dilation_width;
                        if (iy < 0 || iy >= window->in_height || ix < 0 || ix >= window->in_width) {
                            for (int32_t ic = 0; ic < channels; ++ic) {
                                acc += range.zero * w[ic];
                            }
                            continue;
                        }
                        const int8_t *pixel = quantized + (iy * window->in_width + ix) * channels;
                        for (int32_t ic = 0; ic < channels; ++ic) {
                            acc += pixel[ic] * w[ic];
                        }
                    }
                }
                const float real = (float)acc * (range.scale * dynamic->weight_scale[oc]);
                *y++ = mj_clamp_float(bias ? real + bias[oc] : real, dynamic->low, dynamic->high);
            }
        }
    }
}
