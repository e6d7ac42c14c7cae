#include "mj_kernels.h"
#include "mj_requantize.h"

/* y[i] = x[i] cut to [low, high]; y may be x */
void mj_clamp_s8(const int8_t *x, int8_t *y, int32_t count, int32_t low, int32_t high)
{
    for (int32_t i = 0; i < count; ++i) {
        y[i] = (int8_t)mj_clamp(x[i], low, high);
    }
}
