#include "mj_float.h"
#include "mj_kernels.h"

/* y[i] = x[i] cut to [low, high]; y may be x */
void mj_clamp_f32(const float *x, float *y, int32_t count, float low, float high)
{
    for (int32_t i = 0; i < count; ++i) {
        y[i] = mj_clamp_float(x[i], low, high);
    }
}
