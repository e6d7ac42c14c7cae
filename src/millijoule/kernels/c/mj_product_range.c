#include "mj_product_sums.h"
#include "mj_rows_dynamic.h"

/* A row of products of which only the lowest and the highest sum of each channel are kept. */
void mj_product_range(const mj_product *p)
{
    const int32_t groups = (p->pixels + 3) / 4;
    uint32_t *last = (uint32_t *)(uintptr_t)(p->x + (groups - 1) * 4 * p->depth);
    for (int32_t pixel = (p->pixels - 1) % 4 + 1; pixel < 4; ++pixel) {
        for (int32_t k = 0; k < p->depth; ++k) {
            last[4 * k + pixel] = last[4 * k + pixel - 1];
        }
    }
    mj_pair_range *pair = (mj_pair_range *)(uintptr_t)p->pairs;
    const uint32_t *weights = p->weights;
    for (int32_t j = 0; j < p->count; ++j, ++pair, weights += p->depth) {
        const uint32_t *x = p->x;
        for (int32_t group = 0; group < groups; ++group, x += 4 * p->depth) {
            int32_t sums[8];
            mj_product_sums(x, weights, p->depth, pair->start_low, pair->start_high, sums);
            for (int32_t i = 0; i < 4; ++i) {
                pair->lowest_even = sums[i] < pair->lowest_even ? sums[i] : pair->lowest_even;
                pair->highest_even = sums[i] > pair->highest_even ? sums[i] : pair->highest_even;
                pair->lowest_odd = sums[4 + i] < pair->lowest_odd ? sums[4 + i] : pair->lowest_odd;
                pair->highest_odd = sums[4 + i] > pair->highest_odd ? sums[4 + i] : pair->highest_odd;
            }
        }
    }
}
