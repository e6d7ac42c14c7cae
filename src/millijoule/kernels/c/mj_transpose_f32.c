#include "mj_kernels.h"

/* x (height, width, channels) -> y (width, height, channels) */
void mj_transpose_f32(const float *x, float *y, int32_t height, int32_t width, int32_t channels)
{
    for (int32_t column = 0; column < width; ++column) {
        const float *from = x + column * channels;
        for (int32_t row = 0; row < height; ++row, from += (width - 1) * channels) {
            for (int32_t c = 0; c < channels; ++c) {
                *y++ = *from++;
            }
        }
    }
}
