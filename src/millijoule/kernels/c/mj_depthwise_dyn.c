#include "mj_dynamic.h"
#include "mj_kernels.h"

/* x (in_height, in_width, channels), weights (kernel_height, kernel_width, channels)
 * -> y (out_height, out_width, channels); scratch: the input as int8 */
void mj_depthwise_dyn(const float *x, const int8_t *weights, const float *bias, float *y, const mj_window *window,
                      const mj_dynamic *dynamic, void *scratch)
{
    int8_t *quantized = scratch;
    const int32_t channels = window->in_channels, width = window->in_width, step = window->dilation_width;
    const mj_dynamic_range range =
        mj_dynamic_quantize(x, quantized, (int32_t)window->in_height * window->in_width * channels);
    for (int32_t oy = 0; oy < window->out_height; ++oy) {
        for (int32_t ox = 0; ox < window->out_width; ++ox) {
            for (int32_t c = 0; c < channels; ++c) {
                int32_t acc = -range.zero * dynamic->weight_sums[c];
                const int8_t *w = weights + c;
                for (int32_t ky = 0; ky < window->kernel_height; ++ky) {
                    const int32_t iy = oy * window->stride_height - window->pad_top + ky * window->dilation_height;
                    const int8_t *row = iy >= 0 && iy < window->in_height ? quantized + iy * width * channels + c : 0;
                    int32_t ix = ox * window->stride_width - window->pad_left;
                    for (int32_t kx = 0; kx < window->kernel_width; ++kx, ix += step, w += channels) {
                        acc += (row && ix >= 0 && ix < width ? row[ix * channels] : range.zero) * *w;
                    }
                }
                const float real = (float)acc * (range.scale * dynamic->weight_scale[c]);
                *y++ = mj_clamp_float(bias ? real + bias[c] : real, dynamic->low, dynamic->high);
            }
        }
    }
}
