/* Sums of rows of 3 x 3 depthwise convolutions in C; mj_rows.h is the contract. */
#ifndef MJ_FILTER_3X3_H
#define MJ_FILTER_3X3_H

#include "mj_dsp.h"
#include "mj_rows_dynamic.h"

/* acc + x.low * y.high */
static inline int32_t mj_low_high(uint32_t x, uint32_t y, int32_t acc)
{
#if MJ_DSP_ARM
    int32_t result;
    __asm__("smlabt %0, %1, %2, %3" : "=r"(result) : "r"(x), "r"(y), "r"(acc));
    return result;
#else
    return acc + (int16_t)(x & 0xFFFFu) * (int16_t)(y >> 16);
#endif
}

/* acc + x.high * y.low */
static inline int32_t mj_high_low(uint32_t x, uint32_t y, int32_t acc)
{
#if MJ_DSP_ARM
    int32_t result;
    __asm__("smlatb %0, %1, %2, %3" : "=r"(result) : "r"(x), "r"(y), "r"(acc));
    return result;
#else
    return acc + (int16_t)(x >> 16) * (int16_t)(y & 0xFFFFu);
#endif
}

typedef struct {
    uint32_t first[3], second[3]; /* (w0, w1) and (w1, w2) of the row in each slot */
    int32_t bias, lowest, highest;
} mj_channel_3x3;

static inline __attribute__((always_inline)) void mj_move_3x3(mj_channel_3x3 *c, int32_t sum)
{
    c->lowest = sum < c->lowest ? sum : c->lowest;
    c->highest = sum > c->highest ? sum : c->highest;
}

/* The sums whose windows begin at the even and at the odd column of the pair at x. */
static inline __attribute__((always_inline)) int32_t mj_even_3x3(const uint32_t *x, const mj_channel_3x3 *c)
{
    int32_t sum = c->bias;
    for (int32_t slot = 0; slot < 3; ++slot) {
        sum = mj_smlad(x[slot], c->first[slot], sum);
        sum = mj_low_high(x[3 + slot], c->second[slot], sum);
    }
    return sum;
}

static inline __attribute__((always_inline)) int32_t mj_odd_3x3(const uint32_t *x, const mj_channel_3x3 *c)
{
    int32_t sum = c->bias;
    for (int32_t slot = 0; slot < 3; ++slot) {
        sum = mj_high_low(x[slot], c->first[slot], sum);
        sum = mj_smlad(x[3 + slot], c->second[slot], sum);
    }
    return sum;
}

/* stride 2; keep: whether sums are stored */
static inline __attribute__((always_inline)) void mj_spaced_3x3(const uint32_t *x, mj_channel_3x3 *c, int32_t pixels,
                                                                int32_t phase, int32_t *out, int32_t keep)
{
    for (int32_t p = 0; p < pixels; ++p, x += 3) {
        const int32_t sum = phase ? mj_odd_3x3(x, c) : mj_even_3x3(x, c);
        mj_move_3x3(c, sum);
        if (keep) {
            *out++ = sum;
        }
    }
}

/* stride 1 */
static inline __attribute__((always_inline)) void mj_dense_3x3(const uint32_t *x, mj_channel_3x3 *c, int32_t pixels,
                                                               int32_t phase, int32_t *out, int32_t keep)
{
    if (phase) {
        const int32_t sum = mj_odd_3x3(x, c);
        mj_move_3x3(c, sum);
        if (keep) {
            *out++ = sum;
        }
        x += 3;
        --pixels;
    }
    for (; pixels >= 2; pixels -= 2, x += 3) {
        int32_t first = c->bias, second = first;
        for (int32_t slot = 0; slot < 3; ++slot) {
            const uint32_t here = x[slot], next = x[3 + slot];
            first = mj_smlad(here, c->first[slot], first);
            second = mj_high_low(here, c->first[slot], second);
            first = mj_low_high(next, c->second[slot], first);
            second = mj_smlad(next, c->second[slot], second);
        }
        mj_move_3x3(c, first);
        mj_move_3x3(c, second);
        if (keep) {
            out[0] = first;
            out[1] = second;
            out += 2;
        }
    }
    if (pixels > 0) {
        const int32_t sum = mj_even_3x3(x, c);
        mj_move_3x3(c, sum);
        if (keep) {
            *out = sum;
        }
    }
}

/* Taps in the order of the slots. */
static inline mj_channel_3x3 mj_taps_3x3(const mj_filter_row *f, const mj_filter *filter)
{
    mj_channel_3x3 c = {{0}, {0}, filter->bias, INT32_MAX, INT32_MIN};
    int32_t slot = f->top;
    for (int32_t row = 0; row < 3; ++row) {
        c.first[slot] = filter->taps[2 * row];
        c.second[slot] = filter->taps[2 * row + 1];
        slot = slot < 2 ? slot + 1 : 0;
    }
    return c;
}

/* A function for one row of one channel; it works on a copy, which stays in registers. */
#define MJ_ROW_3X3(name, form, keep)                                                                                   \
    static __attribute__((noinline)) void name(const uint32_t *x, mj_channel_3x3 *c, const mj_filter_row *f,           \
                                               int32_t *out)                                                           \
    {                                                                                                                  \
        mj_channel_3x3 own = *c;                                                                                       \
        form(x, &own, f->pixels, f->phase, out, keep);                                                                 \
        *c = own;                                                                                                      \
    }

#endif
