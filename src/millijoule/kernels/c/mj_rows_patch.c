#include "mj_row_steps.h"

/* Some pixels of a row of a depthwise convolution, the columns under their windows made again in the map in front of it.
 * Column c of that map lies in planes at c + `shift`; products begin with the first column that begins a group. */
void mj_rows_patch(const mj_rows *r, int32_t first_pixel, int32_t pixels)
{
    const mj_filters *f = r->filter;
    const mj_products *conv = r->conv;
    const int32_t top = r->state->delivered * f->stride_height - f->pad_top, rows = f->height;
    const int32_t first = first_pixel * f->stride_width - f->pad_left;
    const int32_t end = first + (pixels - 1) * f->stride_width + f->width;
    const int32_t begin = first > 0 ? first & (r->window != NULL ? ~1 : ~3) : 0;
    const int32_t stop = end < r->made_width ? end : r->made_width;
    const int32_t shift = r->lead - first_pixel * f->stride_width;
    for (int32_t slot = 0; slot < rows; ++slot) {
        const int32_t number = top + slot;
        if (number < 0 || number >= r->made_height) { /* padding */
            blank(r, slot, first + shift, end + shift, conv->channels, conv->zero);
            continue;
        }
        if (r->window == NULL) {
            const uint32_t *groups = r->conv_groups + (number % rows * r->chunk + begin) * conv->depth;
            multiply(conv, 0, conv->channels, groups, stop - begin, plane_word(r, 0, begin + shift, slot), r->plane,
                     4 * rows);
        }
        for (int32_t column = begin, count; r->window != NULL && column < stop; column += count) {
            count = stop - column < r->chunk ? stop - column : r->chunk;
            collect(r, number, column, count);
            multiply(conv, 0, conv->channels, r->conv_groups, count, plane_word(r, 0, column + shift, slot), r->plane,
                     4 * rows);
        }
        blank(r, slot, first + shift, shift, conv->channels, conv->zero);
        blank(r, slot, stop + shift, end + shift, conv->channels, conv->zero);
    }
    mj_filter_row row = {
        plane_word(r, 0, first + shift, 0), f->filters, r->filter_groups, pixels, f->channels, r->plane, 16 * r->filter_depth,
        0, rows, f->width, f->stride_width, (first + shift) & 1, f->filter_bytes, twice(f->low), twice(f->high)};
    f->filter_row(&row);
}
