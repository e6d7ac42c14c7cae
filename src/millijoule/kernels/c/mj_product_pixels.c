/* Row of groups times packed weights, into pixels. Contract: mj_rows.h. */
#define MJ_PRODUCT_CLAMPED 0
#include "mj_product.h"

void mj_product_pixels(const mj_product *p)
{
    mj_product_to_pixels(p);
}
