/* A row of products into planes, quantised through floats. Contract: mj_rows_dynamic.h. */
#include "mj_rows_dynamic.h"

static int16_t value(int32_t sum, float scale, float bias, const mj_dynamic_result *result)
{
    const float real = (float)sum * scale;
    return mj_dynamic_value(mj_clamp_float(real + bias, result->low, result->high), result->inverse, result->zero);
}

#define MJ_PRODUCT_PLANES mj_product_planes_exact
#define MJ_PRODUCT_NEEDED const mj_dynamic_result *needed = result
#include "mj_product_quantized.h"
