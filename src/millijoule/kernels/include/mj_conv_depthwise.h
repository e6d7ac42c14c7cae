/* What the conv_depthwise kernels share: a convolution whose rows are made when the depthwise one needs them.
 *
 * scratch: first the window, kernel_height rows of the map between the two (in_width * in_channels of the depthwise
 * layer each), rounded up to 4 bytes; then the scratch of the kernels that are called. */
#ifndef MJ_CONV_DEPTHWISE_H
#define MJ_CONV_DEPTHWISE_H

#include "mj_kernels.h"

typedef void mj_window_kernel(const int8_t *x, const int8_t *weights, const int32_t *bias, int8_t *y,
                              const mj_window *window, const mj_requant *requant, void *scratch);

static inline int32_t mj_is_pointwise(const mj_window *window)
{
    return window->kernel_height == 1 && window->kernel_width == 1 && window->stride_height == 1 &&
           window->stride_width == 1 && window->pad_top == 0 && window->pad_left == 0 &&
           window->in_height == window->out_height && window->in_width == window->out_width;
}

/* rows first..first + count - 1 of the convolution of x -> y */
static inline void mj_conv_rows(const int8_t *x, int8_t *y, const mj_conv_depthwise *pair, int32_t first, int32_t count,
                                void *scratch, mj_window_kernel *conv)
{
    mj_window window = *pair->conv;
    const int32_t start = first * window.stride_height - window.pad_top;
    const int32_t skipped = start < 0 ? 0 : start < window.in_height ? start : window.in_height;
    window.pad_top = (uint8_t)(start < 0 ? -start : 0);
    window.in_height = (uint16_t)(window.in_height - skipped); /* what lies below is the kernel's own padding */
    window.out_height = (uint16_t)count;
    conv(x + skipped * window.in_width * window.in_channels, pair->conv_weights, pair->conv_bias, y, &window,
         pair->conv_requant, scratch);
}

static inline void mj_conv_depthwise_rows(const int8_t *x, int8_t *y, const mj_conv_depthwise *pair, void *scratch,
                                          mj_window_kernel *conv, mj_window_kernel *depthwise)
{
    mj_window window = *pair->depthwise;
    const int32_t rows = window.kernel_height, step = window.stride_height, height = window.in_height;
    const int32_t row_bytes = window.in_width * window.in_channels, out_bytes = window.out_width * window.out_channels;
    const int32_t outside = pair->depthwise_requant->in_zero, kept = rows > step ? rows - step : 0;
    int8_t *map = scratch, *rest = map + (rows * row_bytes + 3) / 4 * 4;
    int32_t top = -window.pad_top; /* the row of the map at which the window begins */
    window.in_height = window.kernel_height;
    window.out_height = 1;
    window.pad_top = 0;
    for (int32_t oy = 0, have = 0; oy < pair->depthwise->out_height; ++oy, have = kept, top += step, y += out_bytes) {
        if (oy > 0 && kept > 0) {
            __builtin_memmove(map, map + step * row_bytes, (uint32_t)(kept * row_bytes));
        }
        /* rows have..begin - 1 of the window lie above the map, begin..end - 1 inside, the others below */
        const int32_t begin = -top < have ? have : -top < rows ? -top : rows;
        const int32_t end = height - top < begin ? begin : height - top < rows ? height - top : rows;
        __builtin_memset(map + have * row_bytes, outside, (uint32_t)((begin - have) * row_bytes));
        if (begin < end) {
            mj_conv_rows(x, map + begin * row_bytes, pair, top + begin, end - begin, rest, conv);
        }
        __builtin_memset(map + end * row_bytes, outside, (uint32_t)((rows - end) * row_bytes));
        depthwise(map, pair->depthwise_weights, pair->depthwise_bias, y, &window, pair->depthwise_requant, rest);
    }
}

#endif
