#include "mj_kernels.h"

/* x (height, width, channels) -> y (top + height + bottom, left + width + right, channels), `zero` around it */
void mj_pad_s8(const int8_t *x, int8_t *y, int32_t height, int32_t width, int32_t channels, int32_t top,
               int32_t bottom, int32_t left, int32_t right, int32_t zero)
{
    for (int32_t oy = -top; oy < height + bottom; ++oy) {
        for (int32_t ox = -left; ox < width + right; ++ox) {
            const int32_t inside = oy >= 0 && oy < height && ox >= 0 && ox < width;
            for (int32_t c = 0; c < channels; ++c) {
                *y++ = inside ? x[(oy * width + ox) * channels + c] : (int8_t)zero;
            }
        }
    }
}
