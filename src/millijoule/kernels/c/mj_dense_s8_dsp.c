#include "mj_block.h"

/* mj_dense_s8 with SMLAD, two output features at a time; weights in the order of _pack_pairs.
 * scratch: the input as int16 */
void mj_dense_s8_dsp(const int8_t *x, const int8_t *weights, const int32_t *bias, int8_t *y, int32_t in_features,
                     int32_t out_features, const mj_requant *requant, void *scratch)
{
    const uint32_t *column = scratch;
    mj_block_column(x, in_features, scratch, 0, 1);
    for (int32_t o = 0; o < out_features; o += 2) {
        const int32_t both = o + 1 < out_features;
        int32_t first = bias[o], second = bias[o + both];
        for (int32_t i = 0; i < (in_features + 3) / 4 * 2; ++i, weights += 4) {
            const uint32_t word = mj_load_s8x4(weights);
            first = mj_smlad(column[i], mj_sxtb16(word), first);
            second = mj_smlad(column[i], mj_sxtb16_ror8(word), second);
        }
        y[o] = mj_requantize_s8(first, requant->multiplier[o], requant->shift[o], requant->out_zero, requant->low,
                                requant->high);
        if (both) {
            y[o + 1] = mj_requantize_s8(second, requant->multiplier[o + 1], requant->shift[o + 1], requant->out_zero,
                                        requant->low, requant->high);
        }
    }
}
