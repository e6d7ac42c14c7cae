/* A row of products as floats, within bounds. Contract: mj_rows_dynamic.h. */
#define MJ_PRODUCT_FLOATS mj_product_floats_clamped
#define MJ_PRODUCT_BOUND(value) mj_clamp_float(value, result->low, result->high)
#include "mj_product_floats.h"
