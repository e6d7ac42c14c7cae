#include "mj_row_steps.h"

/* One row of a depthwise convolution, the map in front of it made again, `slice` channels at a time. */
void mj_rows_again(const mj_rows *r, int32_t first_pixel, int32_t pixels)
{
    const mj_filters *f = r->filter;
    const mj_products *conv = r->conv;
    const int32_t column = r->lead - f->pad_left + first_pixel * f->stride_width, top = r->state->delivered * f->stride_height - f->pad_top;
    mj_filter_row row = {
        plane_word(r, 0, column, 0), f->filters, r->filter_groups, pixels, 0, r->plane, 16 * r->filter_depth, 0,
        f->height, f->width, f->stride_width, column & 1, f->filter_bytes, twice(f->low), twice(f->high)};
    for (int32_t first = 0; first < f->channels; first += r->slice) {
        row.channels = f->channels - first < r->slice ? f->channels - first : r->slice;
        for (int32_t slot = 0; slot < f->height; ++slot) {
            const int32_t number = top + slot;
            if (number < 0 || number >= r->made_height) { /* padding */
                mj_word *words = r->planes;
                for (int32_t i = slot; i < row.channels * (r->plane / 4); i += f->height) {
                    words[i] = twice(conv->zero);
                }
                continue;
            }
            const uint32_t *groups = r->conv_groups + number % f->height * (r->chunk * conv->depth);
            multiply(conv, first, row.channels, groups, r->made_width, plane_word(r, 0, r->lead, slot), r->plane,
                     4 * f->height);
            if (r->made_width % 4 != 0) {
                mend(r, slot, row.channels, conv->zero);
            }
        }
        f->filter_row(&row);
        row.filters += r->slice * (f->filter_bytes / 4);
        row.groups += r->slice / 2 * 4;
    }
}
