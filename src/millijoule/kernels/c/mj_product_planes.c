/* Row of groups times packed weights, into planes. Contract: mj_rows.h. */
#define MJ_PRODUCT_CLAMPED 0
#include "mj_product.h"

void mj_product_planes(const mj_product *p)
{
    mj_product_to_planes(p);
}
