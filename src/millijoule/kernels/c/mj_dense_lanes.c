#include "mj_dense.h"
#include "mj_requantize.h"

static inline int8_t mj_dense_result(const mj_dense *dense, int32_t sum, int32_t multiplier, int32_t addend,
                                     int32_t shift)
{
#if defined(MJ_ROUNDING_SINGLE)
    const int32_t high = (int32_t)(((int64_t)sum * multiplier) >> 32);
#elif defined(MJ_ROUNDING_MULHI)
    const int32_t high = (int32_t)(((int64_t)sum * multiplier + (INT64_C(1) << 31)) >> 32);
#else
    const int32_t high = (int32_t)(((int64_t)sum * multiplier + (INT64_C(1) << 30)) >> 31) - (sum < 0);
#endif
    return (int8_t)mj_clamp((high + addend) >> shift, dense->low, dense->high);
}

/* Sums of the pairs of features, kept modulo 2^32 as the cores do. */
void mj_dense_lanes(const mj_dense *dense)
{
    const int32_t features = dense->features, pairs = (features + 1) / 2;
    for (int32_t j = 0; j < pairs; ++j) {
        const int32_t together = (j | 1) < pairs ? 2 : 1;
        const uint32_t *weights = dense->weights + (j & ~1) * dense->depth + (j & 1);
        const mj_pair *pair = dense->pairs + j;
        uint32_t high = (uint32_t)pair->start_high, low = (uint32_t)pair->start_low;
        for (int32_t k = 0; k < dense->depth; ++k, weights += together) {
            const int32_t first = (int16_t)(dense->x[k] & 0xFFFFu), second = (int16_t)(dense->x[k] >> 16);
            const uint32_t lanes = *weights;
            high += (uint32_t)(first * (int16_t)(lanes & 0xFFFFu)) + (uint32_t)(second * (int16_t)(lanes >> 16));
            low += (uint32_t)(first * (int8_t)(lanes & 0xFFu)) + (uint32_t)(second * (int8_t)(lanes >> 16 & 0xFFu));
        }
        dense->y[2 * j] =
            mj_dense_result(dense, (int32_t)low, pair->multiplier_even, pair->addend_even, pair->shift_even);
        if (2 * j + 1 < features) {
            dense->y[2 * j + 1] = mj_dense_result(dense, (int32_t)(high - low) >> 8, pair->multiplier_odd,
                                                  pair->addend_odd, pair->shift_odd);
        }
    }
}
