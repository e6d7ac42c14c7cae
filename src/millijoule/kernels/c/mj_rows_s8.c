#include "mj_row_engine.h"

#include "mj_dsp.h"
#include "mj_gather.h"
#include "mj_requantize.h"
#include "mj_row_steps.h"
#include "mj_scatter.h"

#include <stddef.h>

/* what compile/rows.py reserves */
_Static_assert(sizeof(mj_rows_state) <= 40, "the state of a block");
_Static_assert(sizeof(mj_pair) == 32, "a pair");
_Static_assert(sizeof(mj_filter) == 16, "a filter without taps");

/* *** preparation, once per inference ***** */

typedef struct {
    int32_t multiplier, addend, shift;
} requantisation;

/* mj_rows.h says what the three numbers mean */
static requantisation prepared(int32_t multiplier, int32_t shift, int32_t zero)
{
#if defined(MJ_ROUNDING_SINGLE)
    const int32_t right = -1 - shift;
    const requantisation result = {multiplier, (2 * zero + 1) * (INT32_C(1) << (right - 1)), right};
#elif defined(MJ_ROUNDING_DOUBLE)
    const requantisation result = {multiplier, zero, -shift};
#else
    const requantisation result = {multiplier, zero, shift};
#endif
    return result;
}

/* Where every bias of a layer fits 16 bits, it is stored so. */
static int32_t bias_at(const int32_t *wide, const int16_t *narrow, int32_t up, int32_t c)
{
    return narrow != NULL ? narrow[c] * (INT32_C(1) << up) : wide[c];
}

MJ_SMALL prepare_pairs(const mj_products *p)
{
    mj_pair *pair = p->pairs;
    for (int32_t c = 0; c < p->channels; c += 2, ++pair) {
        const int32_t odd = c + 1 < p->channels ? c + 1 : c; /* an odd last channel has a partner that nobody reads */
        const requantisation first = prepared(p->multiplier[c], p->shift[c], p->zero);
        const requantisation second = prepared(p->multiplier[odd], p->shift[odd], p->zero);
        const int32_t low = bias_at(p->bias, p->narrow, p->up, c);
        const int32_t high = odd != c ? bias_at(p->bias, p->narrow, p->up, odd) : 0;
        pair->start_low = low;
        pair->start_high = (int32_t)(((uint32_t)high << 8) + (uint32_t)low);
        pair->multiplier_even = first.multiplier;
        pair->addend_even = first.addend;
        pair->shift_even = first.shift;
        pair->multiplier_odd = second.multiplier;
        pair->addend_odd = second.addend;
        pair->shift_odd = second.shift;
    }
    if (p->held != 0) {
        fetch(p, 0, p->held, p->place);
    }
}

static uint32_t two(int32_t low, int32_t high)
{
    return (uint32_t)(uint16_t)low | (uint32_t)high << 16;
}

MJ_SMALL prepare_filters(const mj_filters *f)
{
    const int8_t *taps = f->taps;
    uint8_t *place = (uint8_t *)f->filters;
    for (int32_t c = 0; c < f->channels; ++c, place += f->filter_bytes) {
        mj_filter *filter = (mj_filter *)(void *)place;
        const requantisation numbers = prepared(f->multiplier[c], f->shift[c], f->zero);
        filter->bias = bias_at(f->bias, f->narrow, 0, c);
        filter->multiplier = numbers.multiplier;
        filter->addend = numbers.addend;
        filter->shift = numbers.shift;
        uint32_t *word = filter->taps;
        for (int32_t ky = 0; ky < f->height; ++ky, taps += f->width) {
            if (f->width == 3) {
                *word++ = two(taps[0], taps[1]);
                *word++ = two(taps[1], taps[2]);
                continue;
            }
            for (int32_t kx = 0; kx < f->width; kx += 2) {
                *word++ = two(taps[kx], kx + 1 < f->width ? taps[kx + 1] : 0);
            }
        }
    }
}

/* *** from rows to groups ***** */

MJ_SMALL gather(const int8_t *x, int32_t pixels, int32_t channels, uint32_t *groups)
{
    mj_gather(x, pixels, channels, groups); /* compile/lower_rows.py packs the weights in the same order */
}

/* One row of the input as int16, behind its left padding. */
MJ_SMALL widen(const uint8_t *x, const mj_rows *r, int16_t *out)
{
    const int32_t count = r->in_width * r->in_channels;
    int32_t i = 0;
    if (r->table == NULL) {
        const uint32_t flip = (uint32_t)r->flip * 0x01010101u;
        for (; i + 4 <= count; i += 4) {
            const uint32_t word = mj_load_s8x4((const int8_t *)x + i) ^ flip;
            const uint32_t even = mj_sxtb16(word), odd = mj_sxtb16_ror8(word);
            const uint32_t first = (even & 0xFFFFu) | odd << 16, second = even >> 16 | (odd & 0xFFFF0000u);
            __builtin_memcpy(out + i, &first, 4);
            __builtin_memcpy(out + i + 2, &second, 4);
        }
        for (; i < count; ++i) {
            out[i] = (int8_t)(x[i] ^ r->flip);
        }
        return;
    }
    const int8_t *table = r->table;
    const int32_t channels = r->in_channels, step = r->table_step;
    if (step != 0) {
        for (; i < count; i += channels) {
            for (int32_t c = 0; c < channels; ++c) {
                out[i + c] = table[c * step + x[i + c]];
            }
        }
        return;
    }
    for (; i + 4 <= count; i += 4) {
        const uint32_t word = mj_load_s8x4((const int8_t *)x + i);
        const uint32_t first = two(table[word & 0xFFu], table[word >> 8 & 0xFFu]);
        const uint32_t second = two(table[word >> 16 & 0xFFu], table[word >> 24]);
        __builtin_memcpy(out + i, &first, 4);
        __builtin_memcpy(out + i + 2, &second, 4);
    }
    for (; i < count; ++i) {
        out[i] = table[x[i]];
    }
}

/* *** planes ***** */

/* A row of the input into a slot of the planes, where no convolution comes first. */
MJ_SMALL scatter(const int8_t *x, const mj_rows *r, int32_t slot)
{
    mj_scatter(x, plane_word(r, 0, r->lead, slot), r->in_width, r->in_channels, r->filter->height, r->plane / 4);
}

/* Words of all planes. */
static int32_t plane_words(const mj_rows *r)
{
    const int32_t channels = r->conv != NULL ? r->conv->channels : r->in_channels;
    return (r->slice != 0 ? r->slice : (channels + 1) / 2 * 2) * (r->plane / 4);
}

static int32_t made_zero(const mj_rows *r)
{
    return r->conv != NULL ? r->conv->zero : r->in_zero;
}

/* *** results ***** */

/* Where the next row of the result goes. */
static int8_t *result_row(const mj_rows *r)
{
    const int32_t count = r->out_width * r->out_channels;
    int8_t *y = r->state->y + r->state->delivered * count;
#ifdef MJ_DEBUG
    const int32_t slack = r->row == NULL ? ((r->out_width + 3) / 4 * 4 - r->out_width) * r->out_channels : 0;
    if (r->state->waiting < r->state->end && y < r->state->end && y + count + slack > r->state->waiting) {
        __builtin_trap(); /* the planner proved otherwise */
    }
#endif
    return y;
}

/* A row of the result lies in `row`, or at its place already. */
static void deliver(const mj_rows *r)
{
    const int32_t channels = r->out_channels, count = r->out_width * channels, number = r->state->delivered;
    int8_t *y = r->next != NULL || r->mean != NULL ? r->row : result_row(r);
    ++r->state->delivered;
    if (r->row == NULL) {
        return;
    }
    if (r->row_distance != channels) { /* an odd number of channels: close the gaps */
        for (int32_t p = 1; p < r->out_width; ++p) {
            for (int32_t c = 0; c < channels; ++c) {
                r->row[p * channels + c] = r->row[p * r->row_distance + c];
            }
        }
    }
    if (r->add != NULL) {
        const int8_t *other = r->kept != NULL ? r->kept + number % r->kept_rows * count : r->residual + number * count;
        r->sum(r->result_left ? r->row : other, r->result_left ? other : r->row, y, count, r->add);
    } else if (y != r->row) {
        __builtin_memcpy(y, r->row, (uint32_t)count);
    }
    if (r->mean != NULL) {
        r->mean->take(r, y, 0, channels, channels);
    }
    if (r->next != NULL) {
        mj_rows_push(y, r->next);
    }
}

/* groups of a depthwise convolution that nothing reads but the result */
MJ_SMALL ungroup(const mj_rows *r, int32_t pixels, int8_t *out)
{
    const int32_t channels = r->out_channels;
    const int16_t *halves = (const int16_t *)(const void *)r->filter_groups;
    for (int32_t p = 0; p < pixels; ++p, out += r->row_distance) {
        const int16_t *pixel = halves + (p >> 2) * 8 * r->filter_depth + 2 * (p & 3);
        for (int32_t c = 0; c < channels; ++c) {
            out[c] = (int8_t)pixel[(c >> 1) * 8 + (c & 1)];
        }
    }
}

/* One output row of the depthwise convolution and what follows it. */
static void filter_row(const mj_rows *r)
{
    const mj_filters *f = r->filter;
    const int32_t first = r->lead - f->pad_left;
    const int32_t top = r->state->delivered * f->stride_height - f->pad_top;
    mj_filter_row row = {
        NULL, f->filters, r->filter_groups, 0, f->channels, r->plane, 16 * r->filter_depth,
        top < 0 ? top + f->height : top % f->height, f->height, f->width, f->stride_width, first & 1, f->filter_bytes,
        twice(f->low), twice(f->high)};
    int8_t *out = r->row != NULL ? r->row : result_row(r);
    for (int32_t ox = 0; ox < r->out_width; ox += r->filter_chunk, out += r->filter_chunk * r->row_distance) {
        row.pixels = r->out_width - ox < r->filter_chunk ? r->out_width - ox : r->filter_chunk;
        row.planes = plane_word(r, 0, first + ox * f->stride_width, 0);
        if (r->parts != NULL) {
            r->parts(r, ox, row.pixels);
        } else {
            f->filter_row(&row);
        }
        if (r->project != NULL) {
            multiply(r->project, 0, r->project->channels, r->filter_groups, row.pixels, out, r->row_distance, 0);
        } else {
            ungroup(r, row.pixels, out);
        }
    }
    deliver(r);
}

/* A row of the map in front of the depthwise convolution is complete. */
static void made_row(const mj_rows *r)
{
    mj_rows_state *s = r->state;
    const mj_filters *f = r->filter;
    ++s->made;
    while (s->delivered < r->out_height && s->delivered * f->stride_height - f->pad_top + f->height <= s->made) {
        filter_row(r);
    }
}

/* One output row of the convolution. The first of `window` convolutions comes with its groups in chunks. */
static void convolve(const mj_rows *r, int32_t oy)
{
    const mj_products *conv = r->conv;
    if (r->parts != NULL) {
        r->parts(r, 0, r->out_width);
        return;
    }
    const int32_t slot = r->filter != NULL ? r->state->made % r->filter->height : 0;
    const int32_t step = r->filter != NULL ? 4 * r->filter->height : 0;
    const int32_t width = r->made_width;
    int8_t *pixels = r->filter != NULL || r->row != NULL ? r->row : result_row(r);
    for (int32_t ox = 0; ox < width; ox += r->chunk) {
        const int32_t count = width - ox < r->chunk ? width - ox : r->chunk;
        if (r->window != NULL) {
            collect(r, oy, ox, count);
        }
        if (r->filter != NULL) {
            multiply(conv, 0, conv->channels, r->conv_groups, count, plane_word(r, 0, r->lead + ox, slot), r->plane, step);
        } else {
            multiply(conv, 0, conv->channels, r->conv_groups, count, pixels + ox * r->row_distance, r->row_distance, 0);
        }
    }
    if (r->filter == NULL) {
        deliver(r);
        return;
    }
    if (width % 4 != 0) {
        mend(r, slot, conv->channels, conv->zero);
    }
    made_row(r);
}

static void windows(const mj_rows *r)
{
    mj_rows_state *s = r->state;
    const mj_window *w = r->window;
    for (;;) {
        const int32_t done = r->filter != NULL ? s->made : s->delivered;
        if (done >= r->made_height || done * w->stride_height - w->pad_top + w->kernel_height > s->received) {
            return;
        }
        if (r->filter != NULL && r->parts != NULL) {
            made_row(r); /* as soon as it can be made */
        } else {
            convolve(r, done);
        }
    }
}

static int16_t *widened_slot(const mj_rows *r)
{
    return r->widened + r->state->received % r->widened_rows * r->widened_row;
}

void mj_rows_begin(int8_t *y, const mj_rows *r)
{
    __builtin_memset(r->state, 0, sizeof *r->state);
    r->state->y = y;
    if (r->next != NULL) {
        mj_rows_begin(y, r->next);
    }
    if (r->conv != NULL) {
        prepare_pairs(r->conv);
    }
    if (r->project != NULL) {
        prepare_pairs(r->project);
    }
    if (r->filter != NULL) {
        prepare_filters(r->filter);
        fill(r->planes, plane_words(r), twice(made_zero(r)));
    }
    if (r->window != NULL) {
        fill((mj_word *)(void *)r->widened, r->widened_rows * r->widened_row / 2, twice(r->in_zero));
    }
    if (r->mean != NULL) {
        fill((mj_word *)(void *)r->mean->sums, r->out_channels, (uint32_t)r->mean->start);
    }
}

void mj_rows_push(const void *x_row, const mj_rows *r)
{
    mj_rows_state *s = r->state;
    if (r->kept != NULL) {
        const int32_t count = r->in_width * r->in_channels;
        __builtin_memcpy(r->kept + s->received % r->kept_rows * count, x_row, (uint32_t)count);
    }
    if (r->window != NULL) {
        widen(x_row, r, widened_slot(r) + r->window->pad_left * r->in_channels);
        ++s->received;
        windows(r);
    } else if (r->conv != NULL && r->filter != NULL && r->parts != NULL) {
        const int32_t row = r->chunk * r->conv->depth; /* words */
        gather(x_row, r->in_width, r->in_channels, r->conv_groups + s->received % r->filter->height * row);
        ++s->received;
        made_row(r);
    } else if (r->conv != NULL) {
        gather(x_row, r->in_width, r->in_channels, r->conv_groups);
        convolve(r, s->received++);
    } else {
        scatter(x_row, r, s->made % r->filter->height);
        ++s->received;
        made_row(r);
    }
}

/* Rows of padding until every output row is there. */
void mj_rows_end(const mj_rows *r)
{
    mj_rows_state *s = r->state;
    while (r->window != NULL && (r->filter != NULL ? s->made : s->delivered) < r->made_height) {
        fill((mj_word *)(void *)widened_slot(r), r->widened_row / 2, twice(r->in_zero));
        ++s->received;
        windows(r);
    }
    while (s->delivered < r->out_height) {
        const int32_t rows = r->filter->height, words = r->parts != NULL ? 0 : plane_words(r);
        const uint32_t zero = twice(made_zero(r));
        for (int32_t i = s->made % rows; i < words; i += rows) { /* planes have no gaps: every such word is in the slot */
            r->planes[i] = zero;
        }
        made_row(r);
    }
    if (r->mean != NULL) {
        r->mean->finish(r);
    }
    if (r->next != NULL) {
        mj_rows_end(r->next);
    }
}

void mj_rows_s8(const void *x, int8_t *y, const mj_rows *r)
{
    const int8_t *row = x;
    const int32_t bytes = r->in_width * r->in_channels;
    mj_rows_begin(y, r);
    for (int32_t i = 0; i < r->in_height; ++i, row += bytes) {
#ifdef MJ_DEBUG
        for (const mj_rows *block = r; block != NULL; block = block->next) {
            block->state->waiting = row + bytes;
            block->state->end = (const int8_t *)x + r->in_height * bytes;
        }
#endif
        mj_rows_push(row, r);
    }
    mj_rows_end(r);
}
