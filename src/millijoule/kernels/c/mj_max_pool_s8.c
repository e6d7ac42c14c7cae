#include "mj_kernels.h"
#include "mj_requantize.h"

/* x (in_height, in_width, channels) -> y (out_height, out_width, channels): the largest of the window's taps that lie
 * in the picture */
void mj_max_pool_s8(const int8_t *x, int8_t *y, const mj_window *window, int32_t low, int32_t high)
{
    const int32_t channels = window->in_channels;
    for (int32_t oy = 0; oy < window->out_height; ++oy) {
        for (int32_t ox = 0; ox < window->out_width; ++ox) {
            for (int32_t c = 0; c < channels; ++c) {
                int32_t largest = -128;
                for (int32_t ky = 0; ky < window->kernel_height; ++ky) {
                    const int32_t iy = oy * window->stride_height - window->pad_top + ky * window->dilation_height;
                    for (int32_t kx = 0; kx < window->kernel_width; ++kx) {
                        const int32_t ix = ox * window->stride_width - window->pad_left + kx * window->dilation_width;
                        if (iy >= 0 && iy < window->in_height && ix >= 0 && ix < window->in_width) {
                            const int32_t value = x[(iy * window->in_width + ix) * channels + c];
                            largest = value > largest ? value : largest;
                        }
                    }
                }
                *y++ = (int8_t)mj_clamp(largest, low, high);
            }
        }
    }
}
