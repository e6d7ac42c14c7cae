#include "mj_dsp.h"
#include "mj_kernels.h"
#include "mj_requantize.h"

#define MJ_MAX_TAPS 49

/* four sums += products of four channels over all taps. taps: where the pixel of each tap begins; weights (taps, 4) */
static inline __attribute__((always_inline)) void products(const int8_t *const *taps, const int32_t count, int32_t c,
                                                           const int8_t *weights, int32_t acc[4])
{
    for (int32_t t = 0; t < count; ++t, weights += 4) {
        const uint32_t x = mj_load_s8x4(taps[t] + c), w = mj_load_s8x4(weights);
        const uint32_t x02 = mj_sxtb16(x), x13 = mj_sxtb16_ror8(x);
        const uint32_t w02 = mj_sxtb16(w), w13 = mj_sxtb16_ror8(w);
        acc[0] = mj_smlabb(x02, w02, acc[0]);
        acc[1] = mj_smlabb(x13, w13, acc[1]);
        acc[2] = mj_smlatt(x02, w02, acc[2]);
        acc[3] = mj_smlatt(x13, w13, acc[3]);
    }
}

/* mj_depthwise_s8, four channels at a time; weights in the order of _pack_channel_groups; at most 49 taps.
 * scratch: one pixel that stands for those outside the picture */
void mj_depthwise_s8_dsp(const int8_t *x, const int8_t *weights, const int32_t *bias, int8_t *y,
                         const mj_window *window, const mj_requant *requant, void *scratch)
{
    const int8_t *taps[MJ_MAX_TAPS];
    int8_t *outside = scratch;
    const int32_t channels = window->in_channels, row = window->in_width * channels;
    const int32_t count = window->kernel_height * window->kernel_width;
    const int32_t zero = requant->out_zero, low = requant->low, high = requant->high;
    for (int32_t c = 0; c < channels; ++c) {
        outside[c] = (int8_t)requant->in_zero;
    }
    for (int32_t oy = 0; oy < window->out_height; ++oy) {
        for (int32_t ox = 0; ox < window->out_width; ++ox, y += channels) {
            const int8_t **tap = taps;
            for (int32_t ky = 0; ky < window->kernel_height; ++ky) {
                const int32_t iy = oy * window->stride_height - window->pad_top + ky * window->dilation_height;
                for (int32_t kx = 0; kx < window->kernel_width; ++kx) {
                    const int32_t ix = ox * window->stride_width - window->pad_left + kx * window->dilation_width;
                    const int32_t inside = iy >= 0 && iy < window->in_height && ix >= 0 && ix < window->in_width;
                    *tap++ = inside ? x + iy * row + ix * channels : outside;
                }
            }
            const int8_t *w = weights;
            int32_t c = 0;
            for (; c + 4 <= channels; c += 4, w += 4 * count) {
                int32_t acc[4] = {bias[c], bias[c + 1], bias[c + 2], bias[c + 3]};
                if (count == 9) { /* a constant count is unrolled */
                    products(taps, 9, c, w, acc);
                } else {
                    products(taps, count, c, w, acc);
                }
                uint32_t word = 0;
                for (int32_t i = 0; i < 4; ++i) {
                    const int8_t value = mj_requantize_s8(acc[i], requant->multiplier[c + i], requant->shift[c + i],
                                                          zero, low, high);
                    word |= (uint32_t)(uint8_t)value << (8 * i);
                }
                mj_store_s8x4(y + c, word);
            }
            for (int32_t i = 0; c + i < channels; ++i) { /* one to three channels are left */
                int32_t acc = bias[c + i];
                for (int32_t t = 0; t < count; ++t) {
                    acc += taps[t][c + i] * w[4 * t + i];
                }
                y[c + i] = mj_requantize_s8(acc, requant->multiplier[c + i], requant->shift[c + i], zero, low, high);
            }
        }
    }
}
