#include "mj_float.h"
#include "mj_kernels.h"

/* x (pixels, channels) picture bytes -> y (pixels, channels) */
void mj_normalize_f32(const uint8_t *x, float *y, int32_t pixels, int32_t channels, const float *scale,
                      const float *offset)
{
    for (int32_t p = 0; p < pixels; ++p) {
        for (int32_t c = 0; c < channels; ++c) {
            y[p * channels + c] = (float)x[p * channels + c] * scale[c] + offset[c];
        }
    }
}
