/* A row of products into planes, quantised through floats; the lower bound is zero. Contract: mj_rows_dynamic.h. */
#include "mj_rows_dynamic.h"

static int16_t value(int32_t sum, float scale, float bias, float inverse)
{
    const int32_t q = mj_relu_value(sum, scale, bias, inverse);
    return (int16_t)(q < -128 ? -128 : q > 127 ? 127 : q);
}

#define MJ_PRODUCT_PLANES mj_product_planes_relu
#define MJ_PRODUCT_NEEDED const float needed = result->inverse
#include "mj_product_quantized.h"
