/* From rows to groups (mj_rows.h): pixels as they lie in memory, or windows of a widened row. */
#ifndef MJ_GATHER_H
#define MJ_GATHER_H

#include "mj_dsp.h"
#include "mj_scatter.h" /* MJ_ROLLED */

/* Memory that is written as int16 and read by pairs: at an even address, and at one of words. */
typedef uint32_t __attribute__((aligned(2), may_alias)) mj_two_halves;
typedef uint32_t __attribute__((may_alias)) mj_word;

/* x (pixels, channels) int8 -> groups of depth (channels + 1) / 2. Four channels become two words: channels (0, 2), then
 * (1, 3), as SXTB16 unpacks them; what is left of a number of channels that is no multiple of four stays in order. */
static inline void mj_gather(const int8_t *x, int32_t pixels, int32_t channels, uint32_t *groups)
{
    const int32_t depth = (channels + 1) / 2;
    MJ_ROLLED
    for (int32_t p = 0; p < pixels; ++p) {
        uint32_t *word = groups + (p & 3);
        int32_t c = channels;
        MJ_ROLLED
        for (; c >= 8; c -= 8, x += 8, word += 16) {
            const uint32_t a = mj_load_s8x4(x), b = mj_load_s8x4(x + 4);
            word[0] = mj_sxtb16(a);
            word[4] = mj_sxtb16_ror8(a);
            word[8] = mj_sxtb16(b);
            word[12] = mj_sxtb16_ror8(b);
        }
        MJ_ROLLED
        for (; c >= 4; c -= 4, x += 4, word += 8) {
            const uint32_t a = mj_load_s8x4(x);
            word[0] = mj_sxtb16(a);
            word[4] = mj_sxtb16_ror8(a);
        }
        MJ_ROLLED
        for (; c >= 2; c -= 2, x += 2, word += 4) {
            *word = (uint32_t)(uint16_t)x[0] | (uint32_t)x[1] << 16;
        }
        if (c != 0) {
            *word = (uint16_t)*x++;
        }
        groups += (p & 3) == 3 ? 4 * depth : 0;
    }
}

/* One row of windows: `words` consecutive words for each pixel, `step` halves from one window to the next, to every
 * fourth place from `to` on; `group` words from a group to the next. */
static inline void mj_gather_windows(const int16_t *from, int32_t pixels, int32_t words, int32_t step, uint32_t *to,
                                     int32_t group)
{
    if (words == 5 && step % 2 == 0) { /* 3 x 3 x 3, as in most first layers; every window begins with a word */
        MJ_ROLLED
        for (int32_t p = 0; p < pixels; ++p, from += step) {
            const mj_word *word = (const mj_word *)(const void *)from;
            const uint32_t a = word[0], b = word[1], c = word[2], d = word[3], e = word[4];
            uint32_t *place = to + (p & 3);
            place[0] = a;
            place[4] = b;
            place[8] = c;
            place[12] = d;
            place[16] = e;
            to += (p & 3) == 3 ? group : 0;
        }
        return;
    }
    MJ_ROLLED
    for (int32_t p = 0; p < pixels; ++p, from += step) {
        const mj_two_halves *word = (const mj_two_halves *)(const void *)from;
        uint32_t *place = to + (p & 3);
        int32_t left = words;
        MJ_ROLLED
        for (; left >= 4; left -= 4, word += 4, place += 16) {
            const uint32_t a = word[0], b = word[1], c = word[2], d = word[3];
            place[0] = a;
            place[4] = b;
            place[8] = c;
            place[12] = d;
        }
        MJ_ROLLED
        for (; left > 0; --left, ++word, place += 4) {
            *place = *word;
        }
        to += (p & 3) == 3 ? group : 0;
    }
}

#endif
