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

/* what stays the same for all output channels of a block */
typedef struct {
    int32_t count; /* pixels to be stored, 1..MJ_BLOCK_PIXELS */
    int32_t out_channels;
    int32_t zero, low, high; /* low and high are less the zero point */
    int32_t simple; /* all pixels are stored, and the bounds are those of int8 */
} mj_block;

/* sums[0], sums[2], ... of one output channel -> y[0], y[out_channels], ... */
static inline void mj_block_store(const int32_t *sums, int32_t multiplier, int32_t shift, int8_t *y,
                                  const mj_block *block)
{
    const int32_t stride = block->out_channels, zero = block->zero;
    if (block->simple && mj_shift_is_small(shift)) {
        for (int32_t p = 0; p < MJ_BLOCK_PIXELS; ++p, y += stride) {
            y[0] = (int8_t)mj_clamp(mj_requantize_small(sums[2 * p], multiplier, shift) + zero, -128, 127);
        }
        return;
    }
    for (int32_t p = 0; p < block->count; ++p, y += stride) {
        const int32_t value = mj_requantize(sums[2 * p], multiplier, shift);
        y[0] = (int8_t)(mj_clamp(value, block->low, block->high) + zero);
    }
}

/* sums[2 * pixel + channel] = sums[channel] + products, of two output channels and MJ_BLOCK_PIXELS columns; sums[0] and
 * sums[1] hold the biases. weights..end: 8 bytes for every four k, at least one such quad.
 *
 * This takes all 14 registers of a Cortex-M (8 sums, 2 of weights, 2 of data, 2 pointers). Compilers spill some, so on
 * Arm the loop is written by hand, two quads a round: loads stand in groups, which the Cortex-M4 pipelines. */
#if MJ_DSP_ARM
#define MJ_HALF(first_w, first_x, x1, x2, x3)                                                                          \
    first_w first_x "ldr lr, [r0, #" x1 "]\n\t"                                                                        \
                    "sxtb16 r3, r2, ror #8\n\t"                                                                        \
                    "sxtb16 r2, r2\n\t"                                                                                \
                    "smlad r4, r12, r2, r4\n\t"                                                                        \
                    "smlad r5, r12, r3, r5\n\t"                                                                        \
                    "smlad r6, lr, r2, r6\n\t"                                                                         \
                    "smlad r7, lr, r3, r7\n\t"                                                                         \
                    "ldr r12, [r0, #" x2 "]\n\t"                                                                       \
                    "ldr lr, [r0, #" x3 "]\n\t"                                                                        \
                    "smlad r8, r12, r2, r8\n\t"                                                                        \
                    "smlad r9, r12, r3, r9\n\t"                                                                        \
                    "smlad r10, lr, r2, r10\n\t"                                                                       \
                    "smlad r11, lr, r3, r11\n\t"
#define MJ_QUAD                                                                                                        \
    MJ_HALF("ldr r2, [r1], #8\n\t", "ldr r12, [r0], #32\n\t", "-28", "-24", "-20")                                     \
    MJ_HALF("ldr r2, [r1, #-4]\n\t", "ldr r12, [r0, #-16]\n\t", "-12", "-8", "-4")
#define MJ_UNUSED __attribute__((unused))
static __attribute__((naked, noinline, unused)) void mj_block_products(MJ_UNUSED const uint32_t *columns,
                                                                       MJ_UNUSED const int8_t *weights,
                                                                       MJ_UNUSED const int8_t *end,
                                                                       MJ_UNUSED int32_t sums[8])
{
    __asm__("push {r2-r11, lr}\n\t" /* end at sp, sums at sp + 4 */
            "ldrd r4, r5, [r3]\n\t"
            "mov r6, r4\n\t"
            "mov r7, r5\n\t"
            "mov r8, r4\n\t"
            "mov r9, r5\n\t"
            "mov r10, r4\n\t"
            "mov r11, r5\n\t"
            "subs r2, r2, r1\n\t"
            "tst r2, #8\n\t"
            "bne 2f\n" /* an odd number of quads begins in the middle */
            "1:\n\t" MJ_QUAD "2:\n\t" MJ_QUAD "ldr r2, [sp]\n\t"
            "cmp r1, r2\n\t"
            "bne 1b\n\t"
            "ldr r3, [sp, #4]\n\t"
            "stm r3, {r4-r11}\n\t"
            "pop {r2-r11, pc}\n");
}
#else
static inline void mj_block_products(const uint32_t *columns, const int8_t *weights, const int8_t *end,
                                     int32_t sums[8])
{
    for (int32_t p = 1; p < MJ_BLOCK_PIXELS; ++p) {
        sums[2 * p] = sums[0];
        sums[2 * p + 1] = sums[1];
    }
    for (; weights != end; weights += 4, columns += MJ_BLOCK_PIXELS) {
        const uint32_t word = mj_load_s8x4(weights), a = mj_sxtb16(word), b = mj_sxtb16_ror8(word);
        for (int32_t p = 0; p < MJ_BLOCK_PIXELS; ++p) {
            sums[2 * p] = mj_smlad(columns[p], a, sums[2 * p]);
            sums[2 * p + 1] = mj_smlad(columns[p], b, sums[2 * p + 1]);
        }
    }
}
#endif

/* columns of k products each -> y (count <= MJ_BLOCK_PIXELS, out_channels) */
static inline void mj_block_multiply(const uint32_t *columns, const int8_t *weights, const int32_t *bias, int8_t *y,
                                     int32_t count, int32_t k, int32_t out_channels, const mj_requant *requant)
{
    const int32_t bytes = (k + 3) / 4 * 8, zero = requant->out_zero;
    const mj_block block = {count,
                            out_channels,
                            zero,
                            requant->low - zero,
                            requant->high - zero,
                            count == MJ_BLOCK_PIXELS && requant->low == -128 && requant->high == 127};
    const int32_t *multiplier = requant->multiplier;
    const int8_t *shift = requant->shift;
    for (int32_t oc = 0; oc < out_channels; oc += 2, weights += bytes) {
        const int32_t both = oc + 1 < out_channels;
        int32_t sums[2 * MJ_BLOCK_PIXELS];
        sums[0] = bias[oc];
        sums[1] = bias[oc + both];
        mj_block_products(columns, weights, weights + bytes, sums);
        for (int32_t channel = 0; channel <= both; ++channel) {
            mj_block_store(sums + channel, multiplier[oc + channel], shift[oc + channel], y + oc + channel, &block);
        }
    }
}

#endif
