/* Several layers as one, row by row: [convolution] [depthwise convolution] [pointwise convolution] [addition] [mean].
 * (A dense layer behind the mean is a call of its own, behind mj_rows_s8.)
 *
 * Every row of the input is read once, in order; what later rows need of it stays in rings of as many rows as the
 * windows are high. An output row is written as soon as its last input row has been read, so input and result may share
 * memory where the planner has proven that no row is overwritten before it is read. Bit for bit as layer by layer.
 *
 * A block has a convolution, a depthwise convolution or both; a pointwise convolution follows a depthwise one only. Blocks
 * may be chained: each row of one is handed to the next as soon as it is there, and the map between them stored nowhere.
 * Where memory is short, the map in front of a depthwise convolution may be made again for every row of the result, a
 * slice of its channels or a patch of its columns at a time: then a few rows of its input are kept instead of it.
 * All memory marked RAM is scratch that the compiler lays out (compile/rows.py); nothing survives an inference.
 */
#ifndef MJ_ROW_ENGINE_H
#define MJ_ROW_ENGINE_H

#include "mj_kernels.h"
#include "mj_rows.h"
#include "mj_unpack.h"

/* A convolution as products of groups and packed weights. */
typedef struct {
    const uint32_t *weights; /* mj_rows.h */
    const int32_t *bias, *multiplier; /* folded bias, one number per channel */
    const int16_t *narrow;            /* the same in 16 bits, before the shift by `up`; NULL: `bias` has it */
    const int8_t *shift;
    mj_pair *pairs; /* RAM: requantisation, prepared */
    void (*product)(const mj_product *p);
    int32_t channels, depth;
    int32_t zero, low, high; /* of the result */
    uint32_t *place;         /* RAM: the weights of the first `held` pairs, copied once */
    int32_t held;
    uint32_t *tiles;         /* RAM: those of `tile` pairs, copied with every product; the others are read where they are */
    int32_t tile;            /* 0: none */
    /* NULL, or weights have 4 bits and are unpacked instead of copied (mj_unpack.h): all are, `held` or by tiles */
    void (*unpack)(const uint32_t *packed, uint32_t *words, int32_t rows, int32_t depth, int32_t up);
    int32_t up;
} mj_products;

/* A depthwise convolution on planes. */
typedef struct {
    const int8_t *taps; /* channels x height x width */
    const int32_t *bias, *multiplier;
    const int16_t *narrow; /* the bias in 16 bits; NULL: `bias` has it */
    const int8_t *shift;
    uint32_t *filters; /* RAM: taps and requantisation, prepared */
    void (*filter_row)(const mj_filter_row *f);
    int32_t channels, height, width, stride_height, stride_width, pad_top, pad_left;
    int32_t filter_bytes;
    int32_t zero, low, high;
} mj_filters;

typedef struct {
    int32_t received;  /* rows of the input, padding included */
    int32_t made;      /* rows of the map between convolution and depthwise convolution, padding included */
    int32_t delivered; /* rows of the result */
    int8_t *y;
#ifdef MJ_DEBUG /* what of the input has not been read, and must not be written over: checked at every row */
    const int8_t *waiting, *end;
#endif
} mj_rows_state;

struct mj_rows;

/* The mean over all pixels of the result, which is stored nowhere itself. */
typedef struct {
    /* adds pixels of `count` channels from channel `first` on, `distance` bytes apart */
    void (*take)(const struct mj_rows *rows, const int8_t *x, int32_t first, int32_t count, int32_t distance);
    void (*finish)(const struct mj_rows *rows);
    int32_t *sums; /* RAM: one per channel; y may lie over them */
    int32_t start; /* what they begin with: minus the zero point of all pixels */
    int32_t multiplier, shift, zero, low, high; /* of the mean */
} mj_rows_mean;

typedef struct mj_rows {
    mj_rows_state *state; /* RAM */
    int32_t in_height, in_width, in_channels;
    int32_t in_zero; /* what taps outside the input read */
    /* Picture bytes become int8 through a table, see mj_normalize_s8; table_step is 0 or 256. NULL: the input is int8
     * once each byte is combined with `flip` by exclusive or, 0 or 0x80: a table that takes 128 away. */
    const int8_t *table;
    int32_t table_step;
    int32_t flip;

    const mj_products *conv; /* NULL: the depthwise convolution comes first */
    const mj_window *window; /* NULL: 1x1 with stride 1 and no padding */
    int16_t *widened;        /* RAM: the rows under the window as int16, padded left and right; window only */
    int32_t widened_row;     /* int16 numbers in such a row */
    int32_t widened_rows;
    uint32_t *conv_groups;   /* RAM: `chunk` pixels */
    int32_t chunk;           /* a multiple of four */

    int32_t made_height, made_width; /* the result of conv; without it, the input */
    uint32_t *planes;                /* RAM; NULL without a depthwise convolution */
    int32_t plane;                   /* bytes of one channel's plane */
    int32_t lead;                    /* columns to the left of the picture in a plane, even; by fours in front of
                                      * patches behind a 1x1 convolution */
    const mj_filters *filter;        /* NULL: conv gives the result */
    uint32_t *filter_groups;         /* RAM: `filter_chunk` pixels */
    int32_t filter_chunk;            /* a multiple of four */
    int32_t filter_depth;            /* words per pixel there */

    const mj_products *project; /* NULL: filter or conv gives the result */

    int32_t out_height, out_width, out_channels;
    int8_t *row;            /* RAM: where a row is made before it is copied or added; NULL: in place */
    int32_t row_distance;   /* bytes from a pixel to the next while a row is made: channels, rounded up to even */
    const int8_t *residual; /* what is added to the result, in pixels; NULL: nothing, or `kept` */
    int8_t *kept;           /* RAM: the last rows of an input that is stored nowhere and is added to the result */
    int32_t kept_rows;
    void (*sum)(const int8_t *left, const int8_t *right, int8_t *y, int32_t count, const mj_add_params *params);
    const mj_add_params *add; /* its left operand is the result if `result_left`, else the residual */
    int32_t result_left;
    /* NULL, or how a row is made in parts. For the map between a convolution and a depthwise one, made again for every row:
     * mj_rows_again by slices of channels, behind a 1x1 convolution (planes hold `slice` channels, filter_groups whole
     * rows); mj_rows_patch by patches (planes hold the columns under the windows of `filter_chunk` pixels). Both keep
     * the input instead, conv_groups as many rows as the depthwise window is high, or `widened` what it takes to make so
     * many. mj_rows_mean_slices for the result of a 1x1 convolution whose mean is taken. Pixels begin at a multiple
     * of four. */
    void (*parts)(const struct mj_rows *rows, int32_t first_pixel, int32_t pixels);
    int32_t slice;              /* channels, an even number; 0: all */
    const mj_rows_mean *mean;   /* NULL: the result is what is wanted; else y (out_channels) */
    const struct mj_rows *next; /* where rows of the result go instead of y; NULL: to y */
} mj_rows;

/* x (in_height, in_width, in_channels), picture bytes or int8; y (out_height, out_width, out_channels) */
void mj_rows_s8(const void *x, int8_t *y, const mj_rows *rows);

/* The same in parts: begin, then every row of the input in order, then end. Of several blocks the first one is given. */
void mj_rows_begin(int8_t *y, const mj_rows *rows);
void mj_rows_push(const void *x_row, const mj_rows *rows);
void mj_rows_end(const mj_rows *rows);

/* What `parts`, `take` and `finish` point to. */
void mj_rows_again(const mj_rows *rows, int32_t first_pixel, int32_t pixels);
void mj_rows_patch(const mj_rows *rows, int32_t first_pixel, int32_t pixels);
void mj_rows_mean_slices(const mj_rows *rows, int32_t first_pixel, int32_t pixels);
void mj_rows_mean_take(const mj_rows *rows, const int8_t *x, int32_t first, int32_t count, int32_t distance);
void mj_rows_mean_finish(const mj_rows *rows);

#endif
