#include "mj_float.h"
#include "mj_kernels.h"

/* y[i] = clamp(round_half_away(x[i] / scale) + zero). The quotient is rounded to single precision; in double precision
 * (arithmetic.quantize_array) a value within 2^-24 of half a step may go the other way. */
void mj_quantize_s8(const float *x, int8_t *y, int32_t count, float scale, int32_t zero)
{
    for (int32_t i = 0; i < count; ++i) {
        const int32_t value = mj_round_half_away(x[i] / scale) + zero;
        y[i] = (int8_t)(value < -128 ? -128 : value > 127 ? 127 : value);
    }
}
