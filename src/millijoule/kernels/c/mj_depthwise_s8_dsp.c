#include "mj_dsp.h"
#include "mj_kernels.h"
#include "mj_requantize.h"

#define MJ_MAX_TAPS 49

/* what all pixels share */
typedef struct {
    const int8_t *weights; /* (channels / 4, count, 4) */
    const int32_t *bias, *multiplier;
    const int8_t *shift;
    int32_t count, channels;
    int32_t zero, low, high; /* low and high are less the zero point */
} layer;

/* acc += products of one tap; in order, or else the compiler runs out of registers */
#define MJ_TAP(t)                                                                                                      \
    do {                                                                                                               \
        const uint32_t x4 = mj_load_s8x4(taps[t] + c), w4 = mj_load_s8x4(w + 4 * (t));                                 \
        const uint32_t x02 = mj_sxtb16(x4), x13 = mj_sxtb16_ror8(x4);                                                  \
        const uint32_t w02 = mj_sxtb16(w4), w13 = mj_sxtb16_ror8(w4);                                                  \
        acc[0] = mj_smlabb(x02, w02, acc[0]);                                                                          \
        acc[1] = mj_smlabb(x13, w13, acc[1]);                                                                          \
        acc[2] = mj_smlatt(x02, w02, acc[2]);                                                                          \
        acc[3] = mj_smlatt(x13, w13, acc[3]);                                                                          \
        MJ_IN_ORDER(acc[0], acc[1], acc[2], acc[3]);                                                                   \
    } while (0)

/* One output pixel; taps: where the input pixel of each tap begins. Inlined with constants `nine` (the taps are nine)
 * and `full` (the bounds are those of int8). */
static inline __attribute__((always_inline)) void pixel(const int8_t *const *taps, const layer *l, int8_t *y,
                                                        const int32_t nine, const int32_t full)
{
    const int8_t *w = l->weights, *shift = l->shift;
    const int32_t *bias = l->bias, *multiplier = l->multiplier;
    const int32_t zero = l->zero, low = l->low, high = l->high, channels = l->channels, count = l->count;
    int32_t c = 0;
    for (; c + 4 <= channels; c += 4, w += 4 * count) {
        int32_t acc[4] = {bias[c], bias[c + 1], bias[c + 2], bias[c + 3]};
        if (nine) {
            MJ_TAP(0);
            MJ_TAP(1);
            MJ_TAP(2);
            MJ_TAP(3);
            MJ_TAP(4);
            MJ_TAP(5);
            MJ_TAP(6);
            MJ_TAP(7);
            MJ_TAP(8);
        } else {
            for (int32_t t = 0; t < count; ++t) {
                MJ_TAP(t);
            }
        }
        for (int32_t i = 0; i < 4; ++i) {
            const int32_t value = mj_requantize(acc[i], multiplier[c + i], shift[c + i]);
            y[c + i] = (int8_t)(full ? mj_clamp(mj_qadd(value, zero), -128, 127) : mj_clamp(value, low, high) + zero);
        }
    }
    for (int32_t i = 0; c + i < channels; ++i) { /* one to three channels are left */
        int32_t acc = bias[c + i];
        for (int32_t t = 0; t < count; ++t) {
            acc += taps[t][c + i] * w[4 * t + i];
        }
        y[c + i] = (int8_t)(mj_clamp(mj_requantize(acc, multiplier[c + i], shift[c + i]), low, high) + zero);
    }
}

static __attribute__((noinline)) void pixel_nine_full(const int8_t *const *taps, const layer *l, int8_t *y)
{
    pixel(taps, l, y, 1, 1);
}

static __attribute__((noinline)) void pixel_nine(const int8_t *const *taps, const layer *l, int8_t *y)
{
    pixel(taps, l, y, 1, 0);
}

static __attribute__((noinline)) void pixel_any(const int8_t *const *taps, const layer *l, int8_t *y)
{
    pixel(taps, l, y, 0, 0);
}

/* mj_depthwise_s8, four channels at a time; weights in the order of _pack_channel_groups; at most 49 taps.
 * scratch: one pixel that stands for those outside the picture */
void mj_depthwise_s8_dsp(const int8_t *x, const int8_t *weights, const int32_t *bias, int8_t *y,
                         const mj_window *window, const mj_requant *requant, void *scratch)
{
    const int8_t *taps[MJ_MAX_TAPS];
    int8_t *outside = scratch;
    const int32_t channels = window->in_channels, zero = requant->out_zero;
    const layer l = {weights,  bias, requant->multiplier,  requant->shift, window->kernel_height * window->kernel_width,
                     channels, zero, requant->low - zero, requant->high - zero};
    const int32_t full = requant->low == -128 && requant->high == 127;
    __builtin_memset(outside, requant->in_zero, (uint32_t)channels);
    for (int32_t oy = 0; oy < window->out_height; ++oy) {
        for (int32_t ox = 0; ox < window->out_width; ++ox, y += channels) {
            const int8_t **tap = taps;
            for (int32_t ky = 0; ky < window->kernel_height; ++ky) {
                const int32_t iy = oy * window->stride_height - window->pad_top + ky * window->dilation_height;
                const int8_t *row = iy >= 0 && iy < window->in_height ? x + iy * window->in_width * channels : 0;
                int32_t ix = ox * window->stride_width - window->pad_left;
                for (int32_t kx = 0; kx < window->kernel_width; ++kx, ix += window->dilation_width) {
                    *tap++ = row && ix >= 0 && ix < window->in_width ? row + ix * channels : outside;
                }
            }
            if (l.count != 9) {
                pixel_any(taps, &l, y);
            } else if (full) {
                pixel_nine_full(taps, &l, y);
            } else {
                pixel_nine(taps, &l, y);
            }
        }
    }
}
