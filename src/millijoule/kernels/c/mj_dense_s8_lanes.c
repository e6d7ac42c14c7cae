#include "mj_block.h"
#include "mj_dense.h"

/* A dense layer on packed lanes: the input as int16, then all features. */
void mj_dense_s8_lanes(const int8_t *x, const uint32_t *weights, const int32_t *pairs, int8_t *y, int32_t in_features,
                       int32_t out_features, int32_t low, int32_t high, void *scratch)
{
    uint32_t *column = scratch;
    const int32_t depth = (in_features + 7) / 8 * 4;
    const mj_dense dense = {column, weights, (const mj_pair *)(const void *)pairs, y, depth, out_features, low, high};
    column[depth - 2] = column[depth - 1] = 0;
    mj_block_column(x, in_features, column, 0, 1);
    mj_dense_lanes(&dense);
}
