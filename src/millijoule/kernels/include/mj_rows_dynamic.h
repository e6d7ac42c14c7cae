/* Chains of layers with float data and int8 weights, row by row, without their wide maps: the row engine in passes.
 *
 * A convolution with dynamic quantisation needs the range of its whole input before it can begin. A chain
 * [convolution] [depthwise convolution] [pointwise convolution] [addition] [mean] therefore runs again and again over
 * its input, which is kept as int8: the first pass finds the range of the convolution's result, the second one computes it
 * again, quantised, and finds the range of the depthwise convolution's result; the last one computes everything. Where
 * there is room for the sums of the depthwise convolution, the second pass stores them, and the last one begins there.
 *
 * Bit for bit as layer by layer: sums become int8 through the floats of mj_dynamic_quantize. Where the lower bound of a
 * layer is zero, its zero point is -128, and rounding and saturation are simpler (functions named *_relu); these need
 * results before saturation of less than 16 bits, which is known from the range.
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
    /* RAM: the input as int8; may begin where x does. NULL: x are picture bytes, of which channel c means
     * byte * scale[c] + offset[c], step 0 or 1 from one channel to the next */
    int8_t *quantized;
    const float *scale, *offset;
    int32_t step;
    int8_t *table;                                /* RAM: 256 bytes per channel, or once; picture only */
    /* as rows->conv->product and rows->filter->filter_row: what quantises where the lower bound is zero, or NULL */
    void (*conv_relu)(const mj_product *p);
    void (*filter_relu)(const mj_filter_row *f);
    void (*filter_range)(const mj_filter_row *f);
    int32_t *sums; /* RAM: all sums of the depthwise convolution; NULL: the last pass computes them again */
    float low, high; /* of the addition */
    int32_t clamp_after; /* 1: the bounds of conv, which gives the result, are kept in the end */
} mj_rows_dynamic;

/* The mean over all pixels of the result: what rows->mean points to. Each channel is added pixel by pixel, as
 * mj_mean_f32 does. */
typedef struct {
    mj_rows_mean mean; /* take, finish and sums; these are floats, and y may lie over them */
    int32_t bounded;   /* 1: a number is brought within low and high before it is added */
    float low, high;
} mj_rows_mean_floats;

/* What the kernels below find in front of the first pair. */
typedef struct {
    float inverse; /* 1 / scale of the result */
    int32_t zero;
    float low, high;
} mj_dynamic_result;

/* In front of the first filter: where the next sums are stored or read back, or NULL, and the other. */
typedef struct {
    union {
        int32_t *next;
        int32_t room[4]; /* the same size everywhere */
    } sums;
    mj_dynamic_result result;
} mj_filter_front;

#define MJ_RELU_PIXELS 64 /* what compile/rows_dynamic.py makes at a time */

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
/* as mj_product_planes (mj_pair_floats) */
void mj_product_planes_exact(const mj_product *p);
void mj_product_planes_relu(const mj_product *p);
/* Rows of a depthwise convolution: sums move the limits (mj_filter_limits), and all are stored if there is a place for
 * them in mj_filter_front: those of a channel in a row, their number filled up to a multiple of four. Any window;
 * 3 x 3. */
void mj_filter_range_any(const mj_filter_row *f);
void mj_filter_range_3x3(const mj_filter_row *f);
/* To groups (mj_filter_floats): any window; 3 x 3 and at most MJ_RELU_PIXELS pixels; from stored sums. */
void mj_filter_row_exact(const mj_filter_row *f);
void mj_filter_row_relu_3x3(const mj_filter_row *f);
void mj_filter_row_stored(const mj_filter_row *f);

/* What `take`, `finish` and `parts` point to; first, count and distance are bytes of floats. */
void mj_rows_mean_floats_take(const mj_rows *rows, const int8_t *x, int32_t first, int32_t count, int32_t distance);
void mj_rows_mean_floats_finish(const mj_rows *rows);
void mj_rows_mean_floats_slices(const mj_rows *rows, int32_t first_pixel, int32_t pixels);

/* x (in_height, in_width, in_channels) -> y (out_height, out_width, out_channels), or the means. `rows` as for
 * mj_rows_s8, but out_channels, row_distance and slice count bytes of floats, and what depends on ranges is left open. */
void mj_rows_dyn(const void *x, float *y, const mj_rows *rows, const mj_rows_dynamic *dynamic);

/* The row of sums gets its last one again until it is a multiple of four long, which is returned. */
static inline int32_t mj_fill_up(int32_t *sums, int32_t count)
{
    const int32_t padded = (count + 3) / 4 * 4;
    for (int32_t i = count; i < padded; ++i) {
        sums[i] = sums[count - 1];
    }
    return padded;
}

/* A sum quantised where the lower bound is zero, before saturation. */
static inline int32_t mj_relu_value(int32_t sum, float scale, float bias, float inverse)
{
    const float product = (float)sum * scale;
    const float scaled = (product + bias) * inverse;
    return (int32_t)(scaled + 0.5f) - 128;
}

#endif
