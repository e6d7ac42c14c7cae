#include "mj_kernels.h"
#include "mj_requantize.h"

/* x (in_height, in_width, channels) -> y (out_height, out_width, channels): the mean of the window's taps that lie in
 * the picture, halves away from zero; scale and zero point stay. arithmetic.average_int8. */
void mj_avg_pool_s8(const int8_t *x, int8_t *y, const mj_window *window, int32_t low, int32_t high)
{
    const int32_t channels = window->in_channels;
    for (int32_t oy = 0; oy < window->out_height; ++oy) {
        for (int32_t ox = 0; ox < window->out_width; ++ox) {
            for (int32_t c = 0; c < channels; ++c) {
                int32_t sum = 0, count = 0;
                for (int32_t ky = 0; ky < window->kernel_height; ++ky) {
                    const int32_t iy = oy * window->stride_height - window->pad_top + ky * window->dilation_height;
                    for (int32_t kx = 0; kx < window->kernel_width; ++kx) {
                        const int32_t ix = ox * window->stride_width - window->pad_left + kx * window->dilation_width;
                        if (iy >= 0 && iy < window->in_height && ix >= 0 && ix < window->in_width) {
                            sum += x[(iy * window->in_width + ix) * channels + c];
                            ++count;
                        }
                    }
                }
                count = count > 0 ? count : 1; /* a window of padding only gives 0 */
                const int32_t mean = sum < 0 ? -((-sum + count / 2) / count) : (sum + count / 2) / count;
                *y++ = (int8_t)mj_clamp(mean, low, high);
            }
        }
    }
}
