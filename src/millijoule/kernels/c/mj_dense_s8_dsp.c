#include "mj_block.h"

/* mj_dense_s8 with SMLAD, two output features at a time; weights in the order of _pack_pairs.
 * scratch: the input as int16 */
void mj_dense_s8_dsp(const int8_t *x, const int8_t *weights, const int32_t *bias, int8_t *y, int32_t in_features,
                     int32_t out_features, const mj_requant *requant, void *scratch)
{
    uint32_t *block = scratch;
    mj_block_column(x, in_features, block, 0, 1);
    mj_block_multiply(block, weights, bias, y, 1, in_features, out_features, requant, 1);
}
