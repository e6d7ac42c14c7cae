#include "mj_dsp.h"
#include "mj_kernels.h"

/* mj_softmax_s8 with the largest logit found four at a time (SSUB8, SEL) */
void mj_softmax_s8_dsp(const int8_t *x, int8_t *y, int32_t classes, const uint32_t *table)
{
    uint32_t largest_of = 0x80808080u;
    int32_t i = 0;
    for (; i + 4 <= classes; i += 4) {
        largest_of = mj_max_s8x4(largest_of, mj_load_s8x4(x + i));
    }
    int32_t largest = -128;
    for (int32_t byte = 0; byte < 32; byte += 8) {
        const int32_t value = (int8_t)(largest_of >> byte);
        largest = value > largest ? value : largest;
    }
    for (; i < classes; ++i) {
        largest = x[i] > largest ? x[i] : largest;
    }
    uint32_t sum = 0;
    for (i = 0; i < classes; ++i) {
        sum += table[largest - x[i]];
    }
    const uint32_t half = sum / 2u;
    for (i = 0; i < classes; ++i) {
        const uint32_t probability = (table[largest - x[i]] * 256u + half) / sum; /* [0, 256] */
        y[i] = (int8_t)(probability > 255u ? 127 : (int32_t)probability - 128);
    }
}
