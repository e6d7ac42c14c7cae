#include "mj_float.h"
#include "mj_kernels.h"

/* y[i] = left[i] + right[i]; y may be left or right */
void mj_add_f32(const float *left, const float *right, float *y, int32_t count, float low, float high)
{
    for (int32_t i = 0; i < count; ++i) {
        y[i] = mj_clamp_float(left[i] + right[i], low, high);
    }
}
