/* Sums of a depthwise convolution to int8 in groups, through floats, where the lower bound is zero. */
#ifndef MJ_FILTER_RELU_H
#define MJ_FILTER_RELU_H

#include "mj_dsp.h"
#include "mj_rows_dynamic.h"

/* two int16 as int8 */
static inline uint32_t mj_two_int8(int32_t low, int32_t high)
{
#if MJ_DSP_ARM
    return (uint32_t)__ssat16((int16x2_t)mj_pkhbt((uint32_t)low, (uint32_t)high), 8);
#else
    low = low < -128 ? -128 : low > 127 ? 127 : low;
    high = high < -128 ? -128 : high > 127 ? 127 : high;
    return (uint32_t)(uint16_t)low | (uint32_t)high << 16;
#endif
}

/* Rows of sums of channels c and c + 1 (an odd last one is its own partner) to groups; `pixels`: a multiple of four. */
static inline void mj_relu_rows(const mj_filter_row *f, int32_t c, const int32_t *first, const int32_t *second,
                                int32_t pixels)
{
    const int32_t other = c + 1 < f->channels ? c + 1 : c;
    const mj_filter_floats *a = (const mj_filter_floats *)(const void *)(f->filters + (c * f->filter_bytes >> 2));
    const mj_filter_floats *b = (const mj_filter_floats *)(const void *)(f->filters + (other * f->filter_bytes >> 2));
    const float inverse = ((const mj_filter_front *)(const void *)f->filters - 1)->result.inverse;
    const float a_scale = a->scale, a_bias = a->offset, b_scale = b->scale, b_bias = b->offset;
    uint32_t *out = f->groups + (c >> 1) * 4;
    for (int32_t p = 0; p < pixels; p += 4, first += 4, second += 4, out += f->group >> 2) {
        for (int32_t i = 0; i < 4; ++i) {
            out[i] = mj_two_int8(mj_relu_value(first[i], a_scale, a_bias, inverse),
                                 mj_relu_value(second[i], b_scale, b_bias, inverse));
        }
    }
}

#endif
