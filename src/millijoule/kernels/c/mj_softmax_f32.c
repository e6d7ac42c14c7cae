#include "mj_float.h"
#include "mj_kernels.h"

/* exp(x) for x <= 0, within 2 units in the last place; 0 below -87. exp(x) = 2^n * exp(r) with |r| <= ln(2) / 2, and
 * the Taylor series of exp(r) up to r^7 leaves less than 6e-9. ln(2) is split so that n * high is exact. */
static float exponential(float x)
{
    static const float taylor[] = {1.0f / 5040.0f, 1.0f / 720.0f, 1.0f / 120.0f, 1.0f / 24.0f,
                                   1.0f / 6.0f,    1.0f / 2.0f,   1.0f,          1.0f};
    if (!(x > -87.0f)) {
        return 0.0f;
    }
    const int32_t n = (int32_t)(x * 1.44269504f - 0.5f);
    const float r = (x - (float)n * 0.693359375f) - (float)n * -2.12194440e-4f;
    float sum = taylor[0];
    for (int32_t i = 1; i < 8; ++i) {
        sum = sum * r + taylor[i];
    }
    const union {
        uint32_t bits;
        float value;
    } power = {(uint32_t)(n + 127) << 23}; /* 2^n, n in [-126, 0] */
    return sum * power.value;
}

/* x (classes) logits -> y (classes) probabilities */
void mj_softmax_f32(const float *x, float *y, int32_t classes)
{
    float largest = x[0], sum = 0.0f;
    for (int32_t i = 1; i < classes; ++i) {
        largest = x[i] > largest ? x[i] : largest;
    }
    for (int32_t i = 0; i < classes; ++i) {
        y[i] = exponential(x[i] - largest);
        sum += y[i];
    }
    for (int32_t i = 0; i < classes; ++i) {
        y[i] = y[i] / sum;
    }
}
