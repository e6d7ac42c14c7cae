/* A row of products as floats, in plain C: the function of mj_product_floats.c and mj_product_floats_clamped.c.
 * Contract: mj_rows_dynamic.h. The files that include this define
 *   MJ_PRODUCT_FLOATS        the function's name
 *   MJ_PRODUCT_BOUND(value)  the float within the bounds of `result`
 */
#include "mj_product_sums.h"
#include "mj_rows_dynamic.h"

void MJ_PRODUCT_FLOATS(const mj_product *p)
{
    const mj_pair_floats *pair = (const mj_pair_floats *)(const void *)p->pairs;
    const mj_dynamic_result *result = (const mj_dynamic_result *)(const void *)pair - 1;
    const uint32_t *weights = p->weights;
    (void)result;
    for (int32_t j = 0; j < p->count; ++j, ++pair, weights += p->depth) {
        const uint32_t *x = p->x;
        uint8_t *out = (uint8_t *)p->out + 8 * j;
        for (int32_t first = 0; first < p->pixels; first += 4, x += 4 * p->depth) {
            int32_t sums[8];
            mj_product_sums(x, weights, p->depth, pair->start_low, pair->start_high, sums);
            for (int32_t i = 0; i < 4 && first + i < p->pixels; ++i, out += p->distance) {
                float *to = (float *)(void *)out;
                const float even = (float)sums[i] * pair->scale_even, odd = (float)sums[4 + i] * pair->scale_odd;
                to[0] = MJ_PRODUCT_BOUND(even + pair->bias_even);
                to[1] = MJ_PRODUCT_BOUND(odd + pair->bias_odd);
            }
        }
    }
}
