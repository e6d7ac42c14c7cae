#include "mj_block.h"

/* count bytes, words first: both sides may be unaligned, which the core allows for single words */
static inline void copy(int8_t *to, const int8_t *from, int32_t count)
{
    for (; count >= 4; count -= 4, to += 4, from += 4) {
        const uint32_t word = mj_load_s8x4(from);
        __builtin_memcpy(to, &word, sizeof word);
    }
    for (; count > 0; --count) {
        *to++ = *from++;
    }
}

/* the window at (oy, ox) -> column (kernel_height, kernel_width, channels), in_zero outside the picture */
static void gather(const int8_t *x, int8_t *column, const mj_window *window, int32_t oy, int32_t ox, int32_t in_zero)
{
    const int32_t channels = window->in_channels, width = window->kernel_width, span = width * channels;
    const int32_t left = ox * window->stride_width - window->pad_left;
    const int32_t whole = window->dilation_width == 1 && left >= 0 && left + width <= window->in_width;
    for (int32_t ky = 0; ky < window->kernel_height; ++ky) {
        const int32_t iy = oy * window->stride_height - window->pad_top + ky * window->dilation_height;
        if (iy < 0 || iy >= window->in_height) {
            __builtin_memset(column, in_zero, (uint32_t)span);
            column += span;
            continue;
        }
        const int8_t *row = x + iy * window->in_width * channels;
        if (whole) {
            copy(column, row + left * channels, span);
            column += span;
            continue;
        }
        for (int32_t kx = 0, ix = left; kx < width; ++kx, ix += window->dilation_width, column += channels) {
            if (ix < 0 || ix >= window->in_width) {
                __builtin_memset(column, in_zero, (uint32_t)channels);
            } else {
                copy(column, row + ix * channels, channels);
            }
        }
    }
}

/* mj_conv2d_s8 with SMLAD: MJ_BLOCK_PIXELS windows at a time become columns, the rest is a pointwise convolution.
 * weights in the order of _pack_pairs; scratch: the columns as int16, then one column as int8 */
void mj_conv2d_s8_dsp(const int8_t *x, const int8_t *weights, const int32_t *bias, int8_t *y, const mj_window *window,
                      const mj_requant *requant, void *scratch)
{
    const int32_t length = window->kernel_height * window->kernel_width * window->in_channels;
    uint32_t *block = scratch;
    int8_t *column = (int8_t *)(block + (length + 3) / 4 * 2 * MJ_BLOCK_PIXELS);
    const int32_t pixels = (int32_t)window->out_height * window->out_width;
    int32_t oy = 0, ox = 0;
    for (int32_t done = 0; done < pixels; done += MJ_BLOCK_PIXELS) {
        const int32_t count = pixels - done < MJ_BLOCK_PIXELS ? pixels - done : MJ_BLOCK_PIXELS;
        for (int32_t p = 0; p < MJ_BLOCK_PIXELS; ++p) {
            if (p < count) { /* beyond the last window the last one is repeated; its results are not stored */
                gather(x, column, window, oy, ox, requant->in_zero);
                if (++ox == window->out_width) {
                    ox = 0;
                    ++oy;
                }
            }
            mj_block_column(column, length, block, p, MJ_BLOCK_PIXELS);
        }
        mj_block_multiply(block, weights, bias, y, count, length, window->out_channels, requant);
        y += count * window->out_channels;
    }
}
