/* Chains of layers with float data and int8 weights, row by row, without their wide maps: the row engine in passes.
 *
 * A convolution with dynamic quantisation needs the range of its whole input before it can begin. A chain
 * [convolution] [depthwise convolution] [pointwise convolution] [addition] therefore runs again and again over its input,
 * which is kept as int8: the first pass finds the range of the convolution's result, the second one computes it
 * again, quantised, and finds the range of the depthwise convolution's result; the last one computes everything.
 *
 * Ranges, and the floats that leave the chain, are those of the layers one by one, bit for bit. In between, sums become
 * int8 in one of two ways:
 *   exact  through floats as mj_dynamic_quantize does, bit for bit
 *   quick  by the integer kernels of mj_rows.h (rounding rule "single"), whose constants are made from the ranges at
 *          run time. Where the exact value lies within about 2^-12 of a step from a half, the neighbour may come out.
 *          A layer whose numbers do not suit the integer kernels goes the exact way.
 */
#ifndef MJ_ROWS_DYNAMIC_H
#define MJ_ROWS_DYNAMIC_H

#include "mj_dynamic.h"
#include "mj_row_engine.h"

/* What the sums of a convolution mean: real = (float)sum * (scale of x * weight_scale[c]) + bias[c], clamped. */
typedef struct {
    const float *weight_scale, *bias;
    const int32_t *weight_sums;
    float low, high; /* low <= 0 <= high unless the result leaves the chain */
} mj_dynamic_layer;

typedef struct {
    const mj_dynamic_layer *conv, *filter, *project; /* NULL where `rows` has none */
    /* RAM: the input as int8; may begin where x does. NULL: x are picture bytes, of which channel c means byte * scale[c] +
     * offset[c], step 0 or 1 from one channel to the next */
    int8_t *quantized;
    const float *scale, *offset;
    int32_t step;
    int8_t *table;                                   /* RAM: 256 bytes per channel, or once; picture only */
    void (*filter_range)(const mj_filter_row *f);    /* as rows->filter->filter_row */
    float low, high; /* of the addition */
    int32_t exact;       /* 1: the exact way */
    int32_t clamp_after; /* 1: the bounds of conv, which gives the result, are kept in the end */
} mj_rows_dynamic;

/* What the kernels below find in front of the first pair or filter. */
typedef struct {
    float inverse; /* 1 / scale of the result */
    int32_t zero;
    float low, high;
} mj_dynamic_result;

/* Pairs and filters in the other kernels' places; the first two words, or the first one, are as in mj_rows.h. */
typedef struct {
    int32_t start_low, start_high;
    int32_t lowest_even, highest_even, lowest_odd, highest_odd; /* sums so far; at first 2^23 - 1 and -2^23 */
    int32_t unused[2];
} mj_pair_range;
typedef struct {
    int32_t start_low, start_high;
    float scale_even, bias_even, scale_odd, bias_odd;
    int32_t unused[2];
} mj_pair_floats;
typedef struct {
    int32_t bias, lowest, highest, unused;
    uint32_t taps[];
} mj_filter_limits;
typedef struct {
    int32_t bias;
    float scale, offset;
    int32_t unused;
    uint32_t taps[];
} mj_filter_floats;

/* Products that move the lowest and highest sums of each channel (mj_pair_range). Pixels behind the last one in its
 * group are overwritten with that one. */
void mj_product_range(const mj_product *p);
/* The same sums as floats (mj_pair_floats): channel c of pixel i at out + i * distance + 4 * c, word aligned; both
 * channels of the last pair are written. */
void mj_product_floats(const mj_product *p);
/* within the bounds of mj_dynamic_result */
void mj_product_floats_clamped(const mj_product *p);
/* mj_product_planes the exact way (mj_pair_floats) */
void mj_product_planes_exact(const mj_product *p);
/* Rows of a depthwise convolution: sums only move the limits (mj_filter_limits). Any window; 3 x 3. */
void mj_filter_range_any(const mj_filter_row *f);
void mj_filter_range_3x3(const mj_filter_row *f);
/* any window, to groups the exact way (mj_filter_floats) */
void mj_filter_row_exact(const mj_filter_row *f);

/* x (in_height, in_width, in_channels) -> y (out_height, out_width, out_channels). `rows` as for mj_rows_s8, but
 * out_channels and row_distance count bytes of floats, and what depends on ranges is left open. */
void mj_rows_dyn(const void *x, float *y, const mj_rows *rows, const mj_rows_dynamic *dynamic);

#endif
