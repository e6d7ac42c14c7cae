#include "mj_float.h"
#include "mj_kernels.h"

/* x (pixels, channels) -> y (channels), the mean over the pixels */
void mj_mean_f32(const float *x, float *y, int32_t pixels, int32_t channels)
{
    for (int32_t c = 0; c < channels; ++c) {
        float sum = 0.0f;
        for (int32_t p = 0; p < pixels; ++p) {
            sum += x[p * channels + c];
        }
        y[c] = sum / (float)pixels;
    }
}
