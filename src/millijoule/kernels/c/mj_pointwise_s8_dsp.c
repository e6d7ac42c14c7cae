#include "mj_block.h"

/* mj_pointwise_s8 with SMLAD, two output channels x MJ_BLOCK_PIXELS pixels at a time; weights in the order of
 * _pack_pairs; scratch: MJ_BLOCK_PIXELS pixels as int16 */
void mj_pointwise_s8_dsp(const int8_t *x, const int8_t *weights, const int32_t *bias, int8_t *y,
                         const mj_window *window, const mj_requant *requant, void *scratch)
{
    uint32_t *block = scratch;
    const int32_t pixels = (int32_t)window->out_height * window->out_width;
    const int32_t channels = window->in_channels, out_channels = window->out_channels;
    for (int32_t done = 0; done < pixels; done += MJ_BLOCK_PIXELS) {
        const int32_t count = pixels - done < MJ_BLOCK_PIXELS ? pixels - done : MJ_BLOCK_PIXELS;
        for (int32_t p = 0; p < MJ_BLOCK_PIXELS; ++p) {
            /* beyond the last pixel the last one is repeated; its results are not stored */
            mj_block_column(x + (p < count ? p : count - 1) * channels, channels, block, p, MJ_BLOCK_PIXELS);
        }
        mj_block_multiply(block, weights, bias, y, count, channels, out_channels, requant);
        x += count * channels;
        y += count * out_channels;
    }
}
