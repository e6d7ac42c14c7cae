/* A row of products into planes, quantised through floats, in plain C: the function of mj_product_planes_exact.c and
 * mj_product_planes_relu.c. Contract: mj_rows_dynamic.h. The files that include this define
 *   MJ_PRODUCT_PLANES                              the function's name
 *   MJ_PRODUCT_NEEDED                              declares `needed`, what `value` needs of `result`
 *   int16_t value(sum, scale, bias, needed)        a sum as a number of the plane
 */
#include "mj_product_sums.h"
#include "mj_rows_dynamic.h"

void MJ_PRODUCT_PLANES(const mj_product *p)
{
    const mj_pair_floats *pair = (const mj_pair_floats *)(const void *)p->pairs;
    const mj_dynamic_result *result = (const mj_dynamic_result *)(const void *)pair - 1;
    MJ_PRODUCT_NEEDED;
    const uint32_t *weights = p->weights;
    for (int32_t j = 0; j < p->count; ++j, ++pair, weights += p->depth) {
        const uint32_t *x = p->x;
        uint8_t *out = (uint8_t *)p->out + 2 * j * p->distance;
        for (int32_t first = 0; first < p->pixels; first += 4, x += 4 * p->depth) {
            int32_t sums[8];
            mj_product_sums(x, weights, p->depth, pair->start_low, pair->start_high, sums);
            for (int32_t i = 0; i < 4; ++i) {
                int16_t *to = (int16_t *)(void *)(out + (first + i) / 2 * p->step) + i % 2;
                to[0] = value(sums[i], pair->scale_even, pair->bias_even, needed);
                to[p->distance / 2] = value(sums[4 + i], pair->scale_odd, pair->bias_odd, needed);
            }
        }
    }
}
