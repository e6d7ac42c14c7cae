#include "mj_kernels.h"

/* x (classes) logits -> y (classes) probabilities, scale 1/256, zero point -128; arithmetic.softmax_int8.
 * table: round(65536 * exp(-scale * d)) for the distance d below the largest logit. */
void mj_softmax_s8(const int8_t *x, int8_t *y, int32_t classes, const uint32_t *table)
{
    int32_t largest = -128;
    for (int32_t i = 0; i < classes; ++i) {
        largest = x[i] > largest ? x[i] : largest;
    }
    uint32_t sum = 0;
    for (int32_t i = 0; i < classes; ++i) {
        sum += table[largest - x[i]];
    }
    for (int32_t i = 0; i < classes; ++i) {
        const uint32_t probability = (table[largest - x[i]] * 256u + sum / 2u) / sum; /* [0, 256] */
        y[i] = (int8_t)(probability > 255u ? 127 : (int32_t)probability - 128);
    }
}
