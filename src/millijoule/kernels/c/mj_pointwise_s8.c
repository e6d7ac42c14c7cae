#include "mj_kernels.h"
#include "mj_requantize.h"

/* x (pixels, in_channels), weights (out_channels, in_channels) -> y (pixels, out_channels) */
void mj_pointwise_s8(const int8_t *x, const int8_t *weights, const int32_t *bias, int8_t *y, const mj_window *window,
                     const mj_requant *requant, void *scratch)
{
    (void)scratch;
    const int32_t pixels = (int32_t)window->out_height * window->out_width;
    const int32_t channels = window->in_channels;
    for (int32_t p = 0; p < pixels; ++p, x += channels) {
        const int8_t *w = weights;
        for (int32_t oc = 0; oc < window->out_channels; ++oc, w += channels) {
            int32_t acc = bias[oc];
            for (int32_t ic = 0; ic < channels; ++ic) {
                acc += x[ic] * w[ic];
            }
            *y++ = mj_requantize_s8(acc, requant->multiplier[oc], requant->shift[oc], requant->out_zero, requant->low,
                                    requant->high);
        }
    }
}
