#include "mj_block.h"
#include "mj_dense.h"
#include "mj_unpack.h"

/* A dense layer on packed lanes whose weights have 4 bits: the input as int16, then so many features at a time
 * whose weights are unpacked behind it. */
void mj_dense_s4_lanes(const int8_t *x, const uint32_t *weights, const int32_t *pairs, int8_t *y, int32_t in_features,
                       int32_t out_features, int32_t low, int32_t high, void *scratch, int32_t up,
                       int32_t tile)
{
    uint32_t *column = scratch;
    const int32_t depth = (in_features + 7) / 8 * 4;
    uint32_t *lanes = column + depth;
    column[depth - 2] = column[depth - 1] = 0;
    mj_block_column(x, in_features, column, 0, 1);
    for (int32_t first = 0; first < out_features; first += tile) {
        const int32_t features = out_features - first < tile ? out_features - first : tile, count = (features + 1) / 2;
        const mj_pair *pair = (const mj_pair *)(const void *)pairs + first / 2;
        const mj_dense dense = {column, lanes, pair, y + first, depth, features, low, high};
        mj_unpack_lanes(weights, lanes, count, depth, up);
        mj_dense_lanes(&dense);
        weights += count * (depth / 2);
    }
}
