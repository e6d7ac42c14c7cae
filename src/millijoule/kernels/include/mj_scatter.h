/* From pixels to planes (mj_rows.h): a row of int8 pixels into one slot of the planes of its channels. */
#ifndef MJ_SCATTER_H
#define MJ_SCATTER_H

#include "mj_dsp.h"

/* in front of a loop that is short already: the instruction cache of some chips holds 1,024 bytes */
#if defined(__clang__)
#define MJ_ROLLED _Pragma("clang loop unroll(disable)")
#else
#define MJ_ROLLED
#endif

/* x (width, channels); `to` is the word of the first two pixels of channel 0, two pixels on lie `step` words further,
 * the next channel `plane` words further. Beside an odd last pixel nothing is written. */
static inline void mj_scatter(const int8_t *x, uint32_t *to, int32_t width, int32_t channels, int32_t step,
                              int32_t plane)
{
    int32_t c = 0;
    MJ_ROLLED
    for (; c + 4 <= channels; c += 4, to += 4 * plane) {
        const int8_t *from = x + c;
        uint32_t *word = to;
        MJ_ROLLED
        for (int32_t left = width / 2; left != 0; --left, from += 2 * channels, word += step) {
            const uint32_t a = mj_load_s8x4(from), b = mj_load_s8x4(from + channels);
            const uint32_t a_even = mj_sxtb16(a), b_even = mj_sxtb16(b);
            const uint32_t a_odd = mj_sxtb16_ror8(a), b_odd = mj_sxtb16_ror8(b);
            word[0] = mj_pkhbt(a_even, b_even);
            word[plane] = mj_pkhbt(a_odd, b_odd);
            word[2 * plane] = mj_pkhtb(a_even, b_even);
            word[3 * plane] = mj_pkhtb(a_odd, b_odd);
        }
        for (int32_t k = 0; k < 4 && width % 2 != 0; ++k, word += plane) {
            *(int16_t *)(void *)word = from[k];
        }
    }
    for (; c < channels; ++c, to += plane) {
        const int8_t *from = x + c;
        int16_t *pixel = (int16_t *)(void *)to;
        for (int32_t i = 0; i < width; ++i, from += channels) {
            pixel[i / 2 * 2 * step + i % 2] = *from;
        }
    }
}

#endif
