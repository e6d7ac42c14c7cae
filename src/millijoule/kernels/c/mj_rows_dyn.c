#include "mj_rows_dynamic.h"

#include <stddef.h>

/* what compile/rows_dynamic.py reserves */
_Static_assert(sizeof(mj_dynamic_result) == 16, "in front of pairs");
_Static_assert(sizeof(mj_filter_front) == 32, "in front of filters");
_Static_assert(sizeof(mj_pair_range) == sizeof(mj_pair) && sizeof(mj_pair_floats) == sizeof(mj_pair), "pairs");

#define MJ_SMALL static __attribute__((noinline)) void
#define MJ_SUM_LIMIT (INT32_C(1) << 23)
#define MJ_LARGEST 30000.0f

/* one channel of a convolution: real = sum * scale + bias */
typedef struct {
    float scale, bias;
    int32_t start, lowest, highest; /* where sums begin; the range of the sums, once it is known */
} channel;

/* one of the two convolutions inside the chain */
typedef struct {
    const mj_dynamic_layer *layer;
    mj_dynamic_range in; /* of its input */
    int32_t channels;
    mj_pair *pairs;    /* its numbers, or NULL */
    uint32_t *filters; /* of a depthwise convolution */
    int32_t filter_bytes;
} numbers;

static float real(const numbers *n, const channel *c, int32_t sum)
{
    const float product = (float)sum * c->scale;
    return mj_clamp_float(product + c->bias, n->layer->low, n->layer->high);
}

static channel channel_of(const numbers *n, int32_t c)
{
    channel result = {1.0f, 0.0f, 0, 0, 0};
    if (c < n->channels) { /* an odd last channel has a partner that nobody reads */
        result.scale = n->in.scale * n->layer->weight_scale[c];
        result.bias = n->layer->bias[c];
        result.start = -n->in.zero * n->layer->weight_sums[c];
        if (n->pairs != NULL) {
            const mj_pair_range *pair = (const mj_pair_range *)(const void *)(n->pairs + c / 2);
            result.lowest = c & 1 ? pair->lowest_odd : pair->lowest_even;
            result.highest = c & 1 ? pair->highest_odd : pair->highest_even;
        } else {
            const mj_filter_limits *filter =
                (const mj_filter_limits *)(const void *)(n->filters + (c * n->filter_bytes >> 2));
            result.lowest = filter->lowest;
            result.highest = filter->highest;
        }
    }
    return result;
}

/* *** constants of the kernels ***** */

static void start_pair(mj_pair *pair, int32_t even, int32_t odd)
{
    pair->start_low = even;
    pair->start_high = (int32_t)(((uint32_t)odd << 8) + (uint32_t)even);
}

MJ_SMALL set_floats(const numbers *n)
{
    for (int32_t c = 0; c < n->channels; c += 2) {
        const channel even = channel_of(n, c), odd = channel_of(n, c + 1);
        if (n->pairs != NULL) {
            start_pair(n->pairs + c / 2, even.start, odd.start);
            mj_pair_floats *pair = (mj_pair_floats *)(void *)(n->pairs + c / 2);
            pair->scale_even = even.scale;
            pair->bias_even = even.bias;
            pair->scale_odd = odd.scale;
            pair->bias_odd = odd.bias;
            continue;
        }
        for (int32_t i = 0; i < 2 && c + i < n->channels; ++i) {
            const channel *one = i ? &odd : &even;
            mj_filter_floats *filter = (mj_filter_floats *)(void *)(n->filters + ((c + i) * n->filter_bytes >> 2));
            filter->bias = one->start;
            filter->scale = one->scale;
            filter->offset = one->bias;
        }
    }
}

MJ_SMALL set_limits(const numbers *n)
{
    for (int32_t c = 0; c < n->channels; c += 2) {
        const channel even = channel_of(n, c), odd = channel_of(n, c + 1);
        if (n->pairs != NULL) {
            start_pair(n->pairs + c / 2, even.start, odd.start);
            mj_pair_range *pair = (mj_pair_range *)(void *)(n->pairs + c / 2);
            pair->lowest_even = pair->lowest_odd = MJ_SUM_LIMIT - 1;
            pair->highest_even = pair->highest_odd = -MJ_SUM_LIMIT;
            continue;
        }
        for (int32_t i = 0; i < 2 && c + i < n->channels; ++i) {
            mj_filter_limits *filter = (mj_filter_limits *)(void *)(n->filters + ((c + i) * n->filter_bytes >> 2));
            filter->bias = i ? odd.start : even.start;
            filter->lowest = INT32_MAX;
            filter->highest = INT32_MIN;
        }
    }
}

/* What the result is quantised with, from the ranges of its sums: every step from sum to float is monotonous. */
static mj_dynamic_range range_of(const numbers *n)
{
    float low = 0.0f, high = 0.0f;
    for (int32_t i = 0; i < n->channels; ++i) {
        const channel c = channel_of(n, i);
        const float first = real(n, &c, c.lowest), last = real(n, &c, c.highest);
        low = first < low ? first : low;
        high = last > high ? last : high;
    }
    return mj_dynamic_range_of(low, high);
}

/* Whether results before saturation keep within 16 bits. */
static int32_t is_small(const numbers *n, float inverse)
{
    for (int32_t i = 0; i < n->channels; ++i) {
        const channel c = channel_of(n, i);
        const float lowest = ((float)c.lowest * c.scale + c.bias) * inverse;
        const float highest = ((float)c.highest * c.scale + c.bias) * inverse;
        if (!(lowest > -MJ_LARGEST && highest < MJ_LARGEST)) {
            return 0;
        }
    }
    return 1;
}

/* Prepares a convolution inside the chain, whose ranges are known. Returns whether functions named *_relu may do it. */
static __attribute__((noinline)) int32_t settle(const numbers *n, mj_dynamic_range out, mj_dynamic_result *place)
{
    const mj_dynamic_result result = {1.0f / out.scale, out.zero, n->layer->low, n->layer->high};
    const int32_t relu = n->layer->low == 0.0f && is_small(n, result.inverse);
    set_floats(n);
    *place = result;
    return relu;
}

static uint32_t two(int32_t low, int32_t high)
{
    return (uint32_t)(uint16_t)low | (uint32_t)high << 16;
}

/* taps as in mj_rows.h */
MJ_SMALL set_taps(const mj_filters *f)
{
    const int8_t *taps = f->taps;
    for (int32_t c = 0; c < f->channels; ++c) {
        uint32_t *word = f->filters + (c * f->filter_bytes >> 2) + 4;
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

/* *** passes ***** */

MJ_SMALL fill(uint32_t *words, int32_t count, int32_t value)
{
    for (int32_t i = 0; i < count; ++i) {
        words[i] = two(value, value);
    }
}

/* As mj_rows_s8, with all constants prepared. */
MJ_SMALL pass(const void *x, void *y, const mj_rows *r)
{
    mj_rows_state *s = r->state;
    s->received = s->made = s->delivered = 0;
    s->y = y;
    if (r->filter != NULL) {
        const int32_t channels = r->conv != NULL ? r->conv->channels : r->in_channels;
        fill(r->planes, (channels + 1) / 2 * 2 * r->plane / 4, r->conv != NULL ? r->conv->zero : r->in_zero);
    }
    if (r->window != NULL) {
        fill((uint32_t *)(void *)r->widened, r->window->kernel_height * r->widened_row / 2, r->in_zero);
    }
    if (r->mean != NULL) {
        float *sums = (float *)(void *)r->mean->sums;
        for (int32_t c = 0; c < r->out_channels / 4; ++c) {
            sums[c] = 0.0f;
        }
    }
    const uint8_t *row = x;
    for (int32_t i = 0; i < r->in_height; ++i, row += r->in_width * r->in_channels) {
        mj_rows_push(row, r);
    }
    mj_rows_end(r);
}

/* The convolution in front of the depthwise one, quantised; nothing leaves the pass. */
static mj_rows silent(const mj_rows *r)
{
    mj_rows part = *r;
    part.project = NULL;
    part.residual = NULL;
    part.add = NULL;
    part.row = NULL;
    part.mean = NULL;
    part.out_channels = part.row_distance = 0;
    return part;
}

/* the picture: the table that turns its bytes into int8 */
static mj_dynamic_range tabulate(const uint8_t *x, const mj_rows *r, const mj_rows_dynamic *d)
{
    float low = 0.0f, high = 0.0f;
    const int32_t channels = r->in_channels, count = r->in_height * r->in_width * channels;
    for (int32_t c = 0; c < channels; ++c) {
        int32_t smallest = 255, largest = 0;
        for (int32_t i = c; i < count; i += channels) {
            smallest = x[i] < smallest ? x[i] : smallest;
            largest = x[i] > largest ? x[i] : largest;
        }
        const float scale = d->scale[c * d->step], offset = d->offset[c * d->step];
        const float products[2] = {(float)smallest * scale, (float)largest * scale};
        for (int32_t i = 0; i < 2; ++i) {
            const float value = products[i] + offset;
            low = value < low ? value : low;
            high = value > high ? value : high;
        }
    }
    const mj_dynamic_range range = mj_dynamic_range_of(low, high);
    const float inverse = 1.0f / range.scale;
    for (int32_t c = 0; c < (d->step ? channels : 1); ++c) {
        for (int32_t value = 0; value < 256; ++value) {
            const float product = (float)value * d->scale[c];
            d->table[256 * c + value] = mj_dynamic_value(product + d->offset[c], inverse, range.zero);
        }
    }
    return range;
}

/* of floats; int8 pointers and a count of bytes because the row engine has them so. `params` is the mj_rows_dynamic. */
static void add_floats(const int8_t *left, const int8_t *right, int8_t *y, int32_t count, const mj_add_params *params)
{
    const mj_rows_dynamic *d = (const mj_rows_dynamic *)(const void *)params;
    const float *a = (const float *)(const void *)left, *b = (const float *)(const void *)right;
    float *sum = (float *)(void *)y;
    for (int32_t i = 0; i < count / 4; ++i) {
        sum[i] = mj_clamp_float(a[i] + b[i], d->low, d->high);
    }
}

/* The last convolution gives floats. */
static void finish(const mj_products *p, const mj_dynamic_layer *layer, mj_dynamic_range in)
{
    const numbers last = {layer, in, p->channels, p->pairs, NULL, 0};
    const mj_dynamic_result result = {0.0f, 0, layer->low, layer->high};
    set_floats(&last);
    ((mj_dynamic_result *)(void *)p->pairs)[-1] = result;
}

void mj_rows_dyn(const void *x, float *y, const mj_rows *rows, const mj_rows_dynamic *d)
{
    mj_rows r = *rows;
    mj_dynamic_range range;
    if (d->quantized != NULL) {
        range = mj_dynamic_quantize(x, d->quantized, r.in_height * r.in_width * r.in_channels);
        x = d->quantized;
    } else {
        range = tabulate(x, rows, d);
    }
    r.in_zero = range.zero;
    if (r.residual != NULL) {
        r.sum = add_floats;
        r.add = (const mj_add_params *)(const void *)d;
    }
    mj_products conv;
    if (r.conv != NULL && r.filter == NULL) {
        finish(r.conv, d->conv, range);
    } else if (r.conv != NULL) {
        const numbers first = {d->conv, range, r.conv->channels, r.conv->pairs, NULL, 0};
        conv = *r.conv;
        mj_rows part = silent(&r);
        part.filter = NULL;
        part.conv = &conv;
        part.out_height = r.made_height;
        conv.product = mj_product_range;
        set_limits(&first);
        pass(x, y, &part);
        range = range_of(&first);
        const int32_t relu = settle(&first, range, (mj_dynamic_result *)(void *)first.pairs - 1);
        conv.product = relu && d->conv_relu != NULL ? d->conv_relu : r.conv->product;
        conv.zero = range.zero;
        r.conv = &conv;
    }
    mj_filters filter;
    if (r.filter != NULL) {
        const numbers second = {d->filter, range, r.filter->channels, NULL, r.filter->filters, r.filter->filter_bytes};
        filter = *r.filter;
        mj_rows part = silent(&r);
        part.filter = &filter;
        filter.filter_row = d->filter_range;
        set_taps(&filter);
        set_limits(&second);
        mj_filter_front *front = (mj_filter_front *)(void *)filter.filters - 1;
        front->sums.next = d->sums;
        pass(x, y, &part);
        range = range_of(&second);
        const int32_t relu = settle(&second, range, &front->result);
        filter.filter_row = relu && d->filter_relu != NULL ? d->filter_relu : r.filter->filter_row;
        r.filter = &filter;
        finish(r.project, d->project, range);
        if (relu && d->sums != NULL) { /* rows without channels, from which the filter gets nothing */
            front->sums.next = d->sums;
            filter.filter_row = mj_filter_row_stored;
            r.conv = NULL;
            r.window = NULL;
            r.in_channels = 0;
            r.in_height = r.made_height;
        }
    }
    pass(x, y, &r);
    for (int32_t i = 0; d->clamp_after && i < r.out_height * r.out_width * (r.out_channels / 4); ++i) {
        y[i] = mj_clamp_float(y[i], d->conv->low, d->conv->high);
    }
}
