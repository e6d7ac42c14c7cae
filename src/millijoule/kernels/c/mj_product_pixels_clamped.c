/* Row of groups times packed weights, into pixels, within the layer's bounds. Contract: mj_rows.h. */
#define MJ_PRODUCT_CLAMPED 1
#include "mj_product.h"

void mj_product_pixels_clamped(const mj_product *p)
{
    mj_product_to_pixels(p);
}
