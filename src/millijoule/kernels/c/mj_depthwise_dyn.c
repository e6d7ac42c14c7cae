#include "mj_dynamic.h"
#include "mj_kernels.h"

/* x (in_height, in_width, channels), weights (kernel_height, kernel_width, channels)
 * -> y (out_height, out_width, channels); scratch: the input as int8 */
void mj_depthwise_dyn(const float *x, const int8_t *weights, const float *bias, float *y, const mj_window *window,
                      const mj_dynamic *dynamic, void *scratch)
{
    int8_t *quantized = scratch;
    const int32_t channels = window->in_channels;
    const mj_dynamic_range range =
        mj_dynamic_quantize(x, quantized, (int32_t)window->in_height * window->in_width * channels);
    for (int32_t oy = 0; oy < window->out_height; ++oy) {
        for (int32_t ox = 0; ox < window->out_width; ++ox) {
            for (int32_t c = 0; c < channels; ++c) {
                int32_t acc = -range.zero * dynamic->weight_sums[c];
                for (int32_t ky = 0; ky < window->kernel_height; ++ky) {
                    const int32_t iy = oy * window->stride_height - window->pad_top + ky * window->dilation_height;
                    for (int32_t kx = 0; kx < window->kernel_width; ++kx) {
                        const int32_t ix = ox * window->stride_width - window->pad_left + kx * window->dilation_width;
                        const int32_t w = weights[(ky * window->kernel_width + kx) * channels + c];
                        if (iy < 0 || iy >= window->in_height || ix < 0 || ix >= window->in_width) {
                            acc += range.zero * w;
                        } else {
                            acc += quantized[(iy * window->in_width + ix) * channels + c] * w;
                        }
                    }
                }
                const float real = (float)acc * (range.scale * dynamic->weight_scale[c]);
                *y++ = mj_clamp_float(bias ? real + bias[c] : real, dynamic->low, dynamic->high);
            }
        }
    }
}
