#include "mj_kernels.h"
#include "mj_requantize.h"
#include "mj_sum_pixels.h"

/* mj_mean_s8, four channels at a time */
void mj_mean_s8_dsp(const int8_t *x, int8_t *y, int32_t pixels, int32_t channels, int32_t in_zero, int32_t out_zero,
                    int32_t multiplier, int32_t shift, int32_t low, int32_t high)
{
    const int32_t start = -in_zero * pixels;
    int32_t c = 0;
    for (; c + 4 <= channels; c += 4) {
        int32_t acc[4] = {start, start, start, start};
        mj_sum_pixels(x + c, pixels, channels, acc);
        for (int32_t i = 0; i < 4; ++i) {
            y[c + i] = mj_requantize_s8(acc[i], multiplier, shift, out_zero, low, high);
        }
    }
    for (; c < channels; ++c) { /* one to three channels are left */
        int32_t acc = start;
        for (int32_t p = 0; p < pixels; ++p) {
            acc += x[p * channels + c];
        }
        y[c] = mj_requantize_s8(acc, multiplier, shift, out_zero, low, high);
    }
}
