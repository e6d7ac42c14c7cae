#include "mj_kernels.h"
#include "mj_requantize.h"

/* x (pixels, channels) -> y (channels), the mean over the pixels */
void mj_mean_s8(const int8_t *x, int8_t *y, int32_t pixels, int32_t channels, int32_t in_zero, int32_t out_zero,
                int32_t multiplier, int32_t shift, int32_t low, int32_t high)
{
    for (int32_t c = 0; c < channels; ++c) {
        int32_t acc = -in_zero * pixels;
        for (int32_t p = 0; p < pixels; ++p) {
            acc += x[p * channels + c];
        }
        y[c] = mj_requantize_s8(acc, multiplier, shift, out_zero, low, high);
    }
}
