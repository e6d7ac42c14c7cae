/* The inner loop that pointwise_s8_dsp, conv2d_s8_dsp and dense_s8_dsp share: columns of int16 times int8 weights.
 *
 * A column is what one output pixel is the sum over, k padded with zeros to a multiple of 4. MJ_BLOCK_PIXELS columns
 * lie in `block` as words of two int16: (k / 2, pixel), pairs in the order (0, 2), (1, 3), (4, 6), (5, 7), ... in which
 * SXTB16 unpacks bytes. The weights are stored in the same order, two output channels side by side (registry.py,
 * _pack_pairs), so that one word load gives two channels x two k, and no PKHBT is needed anywhere. */
#ifndef MJ_BLOCK_H
#define MJ_BLOCK_H

#include "mj_dsp.h"
#include "mj_kernels.h"
#include "mj_requantize.h"

#define MJ_BLOCK_PIXELS 4

/* k int8 at x -> column `pixel` of a block of `pixels` columns */
static inline void mj_block_column(const int8_t *x, int32_t k, uint32_t *block, int32_t pixel, int32_t pixels)
{
    block += pixel;
    for (; k >= 4; k -= 4, x += 4, block += 2 * pixels) {
        const uint32_t word = mj_load_s8x4(x);
        block[0] = mj_sxtb16(word);
        block[pixels] = mj_sxtb16_ror8(word);
    }
    if (k > 0) {
        const uint32_t word = mj_load_s8_part(x, k);
        block[0] = mj_sxtb16(word);
        block[pixels] = mj_sxtb16_ror8(word);
    }
}

/* acc[channel 0..1][pixel 0..pixels) += products of two output channels; returns where the next two begin.
 * `pixels` must be a constant where this is inlined. */
static inline __attribute__((always_inline)) const int8_t *mj_block_products(const uint32_t *block, const int8_t *weights,
                                                                             int32_t quads, const int32_t pixels,
                                                                             int32_t acc[2][MJ_BLOCK_PIXELS])
{
    for (int32_t pair = 2 * quads; pair > 0; --pair, weights += 4, block += pixels) {
        const uint32_t word = mj_load_s8x4(weights);
        const uint32_t first = mj_sxtb16(word), second = mj_sxtb16_ror8(word);
        for (int32_t p = 0; p < pixels; ++p) {
            acc[0][p] = mj_smlad(block[p], first, acc[0][p]);
            acc[1][p] = mj_smlad(block[p], second, acc[1][p]);
        }
    }
    return weights;
}

/* block -> y (count <= pixels, out_channels) */
static inline __attribute__((always_inline)) void mj_block_multiply(const uint32_t *block, const int8_t *weights,
                                                                    const int32_t *bias, int8_t *y, int32_t count,
                                                                    int32_t k, int32_t out_channels,
                                                                    const mj_requant *requant, const int32_t pixels)
{
    const int32_t quads = (k + 3) / 4;
    for (int32_t oc = 0; oc < out_channels; oc += 2) {
        const int32_t both = oc + 1 < out_channels;
        int32_t acc[2][MJ_BLOCK_PIXELS];
        for (int32_t p = 0; p < pixels; ++p) {
            acc[0][p] = bias[oc];
            acc[1][p] = bias[oc + both];
        }
        weights = mj_block_products(block, weights, quads, pixels, acc);
        for (int32_t channel = 0; channel <= both; ++channel) {
            const int32_t multiplier = requant->multiplier[oc + channel], shift = requant->shift[oc + channel];
            for (int32_t p = 0; p < count; ++p) {
                y[p * out_channels + oc + channel] = mj_requantize_s8(acc[channel][p], multiplier, shift,
                                                                      requant->out_zero, requant->low, requant->high);
            }
        }
    }
}

#endif
