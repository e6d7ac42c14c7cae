#include "mj_dsp.h"
#include "mj_kernels.h"
#include "mj_requantize.h"

#define MJ_MOST_PIXELS 256 /* 256 * -128 is the least that 16 bits hold */

/* mj_mean_s8, four channels at a time: SXTAB16 sums them in halves of 16 bits, which are emptied before they overflow */
void mj_mean_s8_dsp(const int8_t *x, int8_t *y, int32_t pixels, int32_t channels, int32_t in_zero, int32_t out_zero,
                    int32_t multiplier, int32_t shift, int32_t low, int32_t high)
{
    const int32_t start = -in_zero * pixels;
    int32_t c = 0;
    for (; c + 4 <= channels; c += 4) {
        int32_t acc[4] = {start, start, start, start}, at = c;
        for (int32_t left = pixels; left > 0; left -= MJ_MOST_PIXELS) {
            uint32_t sums02 = 0, sums13 = 0;
            for (int32_t p = left < MJ_MOST_PIXELS ? left : MJ_MOST_PIXELS; p > 0; --p, at += channels) {
                const uint32_t word = mj_load_s8x4(x + at);
                sums02 = mj_sxtab16(sums02, word);
                sums13 = mj_sxtab16_ror8(sums13, word);
            }
            acc[0] += (int16_t)sums02;
            acc[1] += (int16_t)sums13;
            acc[2] += (int16_t)(sums02 >> 16);
            acc[3] += (int16_t)(sums13 >> 16);
        }
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
