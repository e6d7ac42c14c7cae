#include "mj_kernels.h"

/* x (pixels, channels) picture bytes -> y (pixels, channels); y may be x.
 * table (table_channels, 256): the result for every byte, one row for all channels or one for each. */
void mj_normalize_s8(const uint8_t *x, int8_t *y, int32_t pixels, int32_t channels, const int8_t *table,
                     int32_t table_channels)
{
    const int32_t row = table_channels == 1 ? 0 : 256;
    for (int32_t p = 0; p < pixels; ++p) {
        for (int32_t c = 0; c < channels; ++c) {
            y[p * channels + c] = table[c * row + x[p * channels + c]];
        }
    }
}
