#include "mj_float.h"
#include "mj_kernels.h"

/* y[i] = scale * (x[i] - zero) */
void mj_dequantize_s8(const int8_t *x, float *y, int32_t count, float scale, int32_t zero)
{
    for (int32_t i = 0; i < count; ++i) {
        y[i] = scale * (float)(x[i] - zero);
    }
}
