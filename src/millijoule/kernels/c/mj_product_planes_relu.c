#include "mj_product_sums.h"
#include "mj_rows_dynamic.h"

static int16_t value(int32_t sum, float scale, float bias, float inverse)
{
    const float product = (float)sum * scale;
    const float scaled = (product + bias) * inverse;
    const int32_t q = (int32_t)(scaled + 0.5f) - 128;
    return (int16_t)(q < -128 ? -128 : q > 127 ? 127 : q);
}

/* A row of products into planes, quantised through floats, where the lower bound is zero. */
void mj_product_planes_relu(const mj_product *p)
{
    const mj_pair_floats *pair = (const mj_pair_floats *)(const void *)p->pairs;
    const float inverse = ((const mj_dynamic_result *)(const void *)pair - 1)->inverse;
    const uint32_t *weights = p->weights;
    for (int32_t j = 0; j < p->count; ++j, ++pair, weights += p->depth) {
        const uint32_t *x = p->x;
        uint8_t *out = (uint8_t *)p->out + 2 * j * p->distance;
        for (int32_t first = 0; first < p->pixels; first += 4, x += 4 * p->depth) {
            int32_t sums[8];
            mj_product_sums(x, weights, p->depth, pair->start_low, pair->start_high, sums);
            for (int32_t i = 0; i < 4; ++i) {
                int16_t *to = (int16_t *)(void *)(out + (first + i) / 2 * p->step) + i % 2;
                to[0] = value(sums[i], pair->scale_even, pair->bias_even, inverse);
                to[p->distance / 2] = value(sums[4 + i], pair->scale_odd, pair->bias_odd, inverse);
            }
        }
    }
}
