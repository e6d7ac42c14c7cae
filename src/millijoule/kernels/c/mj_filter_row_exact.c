#include "mj_filter_sums.h"
#include "mj_rows_dynamic.h"

/* Any window: a row of a depthwise convolution from planes to groups, quantised through floats. */
void mj_filter_row_exact(const mj_filter_row *f)
{
    const mj_dynamic_result *result = &((const mj_filter_front *)(const void *)f->filters - 1)->result;
    for (int32_t c = 0; c < f->channels; ++c) {
        const mj_filter *filter = (const mj_filter *)(const void *)(f->filters + (c * f->filter_bytes >> 2));
        const mj_filter_floats *floats = (const mj_filter_floats *)(const void *)filter;
        int16_t *y = (int16_t *)(void *)(f->groups + (c >> 1) * 4) + (c & 1);
        for (int32_t p = 0; p < f->pixels; ++p) {
            const float real = (float)mj_filter_sum(f, filter, c, p) * floats->scale;
            const float clamped = mj_clamp_float(real + floats->offset, result->low, result->high);
            y[(p >> 2) * (f->group >> 1) + (p & 3) * 2] = mj_dynamic_value(clamped, result->inverse, result->zero);
        }
    }
}
