#include "mj_kernels.h"
#include "mj_requantize.h"

/* x (in_height, in_width, channels), weights (kernel_height, kernel_width, channels)
 * -> y (out_height, out_width, channels) */
void mj_depthwise_s8(const int8_t *x, const int8_t *weights, const int32_t *bias, int8_t *y, const mj_window *window,
                     const mj_requant *requant, void *scratch)
{
    (void)scratch;
    const int32_t channels = window->in_channels, width = window->in_width, step = window->dilation_width;
    for (int32_t oy = 0; oy < window->out_height; ++oy) {
        for (int32_t ox = 0; ox < window->out_width; ++ox) {
            for (int32_t c = 0; c < channels; ++c) {
                int32_t acc = bias[c];
                const int8_t *w = weights + c;
                for (int32_t ky = 0; ky < window->kernel_height; ++ky) {
                    const int32_t iy = oy * window->stride_height - window->pad_top + ky * window->dilation_height;
                    const int8_t *row = iy >= 0 && iy < window->in_height ? x + iy * width * channels + c : 0;
                    int32_t ix = ox * window->stride_width - window->pad_left;
                    for (int32_t kx = 0; kx < window->kernel_width; ++kx, ix += step, w += channels) {
                        acc += (row && ix >= 0 && ix < width ? row[ix * channels] : requant->in_zero) * *w;
                    }
                }
                *y++ = mj_requantize_s8(acc, requant->multiplier[c], requant->shift[c], requant->out_zero,
                                        requant->low, requant->high);
            }
        }
    }
}
