/* The inner loop that pointwise_s8_dsp and conv2d_s8_dsp share: columns of int16 times int8 weights.
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
    for (int32_t quads = k / 4; quads > 0; --quads, x += 4, block += 2 * pixels) {
        const uint32_t word = mj_load_s8x4(x);
        block[0] = mj_sxtb16(word);
        block[pixels] = mj_sxtb16_ror8(word);
    }
    if (k % 4 > 0) {
        const uint32_t word = mj_load_s8_part(x, k % 4);
        block[0] = mj_sxtb16(word);
        block[pixels] = mj_sxtb16_ror8(word);
    }
}

/* sums[pixel][channel 0..1] = bias + products of two output channels, pixel 0..MJ_BLOCK_PIXELS-1;
 * returns where the weights of the next two channels begin */
static inline const int8_t *mj_block_products(const uint32_t *block, const int8_t *weights, int32_t quads,
                                              const int32_t bias[2], int32_t sums[MJ_BLOCK_PIXELS][2])
{
    int32_t a0 = bias[0], b0 = bias[1], a1 = a0, b1 = b0, a2 = a0, b2 = b0, a3 = a0, b3 = b0;
    for (const int8_t *end = weights + 8 * quads; weights != end; weights += 8, block += 2 * MJ_BLOCK_PIXELS) {
        for (int32_t half = 0; half < 2; ++half) {
            const uint32_t word = mj_load_s8x4(weights + 4 * half);
            const uint32_t a = mj_sxtb16(word), b = mj_sxtb16_ror8(word);
            const uint32_t *x = block + half * MJ_BLOCK_PIXELS;
            a0 = mj_smlad(x[0], a, a0);
            b0 = mj_smlad(x[0], b, b0);
            a1 = mj_smlad(x[1], a, a1);
            b1 = mj_smlad(x[1], b, b1);
            a2 = mj_smlad(x[2], a, a2);
            b2 = mj_smlad(x[2], b, b2);
            a3 = mj_smlad(x[3], a, a3);
            b3 = mj_smlad(x[3], b, b3);
        }
    }
    sums[0][0] = a0, sums[0][1] = b0;
    sums[1][0] = a1, sums[1][1] = b1;
    sums[2][0] = a2, sums[2][1] = b2;
    sums[3][0] = a3, sums[3][1] = b3;
    return weights;
}

/* a block of k products each -> y (count <= MJ_BLOCK_PIXELS, out_channels) */
static inline void mj_block_multiply(const uint32_t *block, const int8_t *weights, const int32_t *bias, int8_t *y,
                                     int32_t count, int32_t k, int32_t out_channels, const mj_requant *requant)
{
    const int32_t quads = (k + 3) / 4, zero = requant->out_zero, low = requant->low, high = requant->high;
    for (int32_t oc = 0; oc < out_channels; oc += 2) {
        const int32_t channels = oc + 1 < out_channels ? 2 : 1;
        const int32_t start[2] = {bias[oc], bias[oc + channels - 1]};
        int32_t sums[MJ_BLOCK_PIXELS][2];
        weights = mj_block_products(block, weights, quads, start, sums);
        for (int32_t channel = 0; channel < channels; ++channel) {
            const int32_t multiplier = requant->multiplier[oc + channel], shift = requant->shift[oc + channel];
            int8_t *out = y + oc + channel;
            for (int32_t p = 0; p < count; ++p, out += out_channels) {
                *out = mj_requantize_s8(sums[p][channel], multiplier, shift, zero, low, high);
            }
        }
    }
}

#endif
