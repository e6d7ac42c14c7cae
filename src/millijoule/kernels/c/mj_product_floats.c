/* A row of products as floats. Contract: mj_rows_dynamic.h. */
#define MJ_PRODUCT_FLOATS mj_product_floats
#define MJ_PRODUCT_BOUND(value) (value)
#include "mj_product_floats.h"
