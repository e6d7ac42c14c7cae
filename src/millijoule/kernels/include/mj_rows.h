/* Convolutions by rows: what the row engine (mj_rows.c) and its inner kernels share.
 *
 * Three forms in which rows of a feature map lie in memory:
 *
 * pixels  int8, height x width x channels, as everywhere else.
 *
 * groups  int16, what a product reads. Four neighbouring pixels form a group; word [group][k][pixel] holds two
 *         consecutive numbers of one pixel, the first in the low half: depth x 4 words per group, depth = words per
 *         pixel. Pixels beyond the last one of a row and the second half of an odd last word may hold anything.
 *
 * planes  int16, what a depthwise convolution reads. One plane per channel with the last `slots` rows of a map, row r
 *         in slot r mod slots. Word [column pair][slot] holds columns 2q and 2q + 1, so that the rows under a window
 *         lie side by side. The picture begins at an even column; to its left and right lie columns of padding.
 *
 * Weights of a product, two channels (2j, 2j + 1) in one 16-bit lane: lane k = 256 * w[2j+1][k] + w[2j][k], lanes 2i
 * (low half) and 2i + 1 in word i, `depth` words per pair; w[2j+1] is at least -127. An odd last channel gets a partner
 * of zeros; lanes beyond the last k are zero. For a data pair x: accH += x . lane gives 256 * sum1 + sum0, and
 * accL += x . signed low bytes gives sum0, so sum1 = (accH - accL) / 256, exact while -2^23 <= sum1 < 2^23 (the compiler
 * proves it from the weights, bias included).
 *
 * Requantisation, by the rounding rule of the model (mj_requantize.h); all numbers are prepared once per inference:
 *   single  v = (((sum * multiplier) >> 32) + addend) >> shift         shift = -1 - s in [1, 22], addend =
 *           (2 * zero + 1) << (shift - 1): rounding and zero point in one. SMMLA, ASR.
 *   mulhi   v = (((int64)addend << 32) + sum * multiplier + 2^31) >> 32, addend = zero. SMMLAR.
 *   double  v = mj_requantize(sum, multiplier, -shift) + addend, addend = zero; shift = -s in [0, 31]
 *           depthwise: -2^30 <= sum < 2^30 and shift in [1, 22] (mj_filter_row_any needs neither)
 * The compiler proves -32768 <= v <= 32767; then v is saturated to int8, and where the layer's bounds are narrower
 * (functions named *_clamped) clamped to [low, high].
 */
#ifndef MJ_ROWS_H
#define MJ_ROWS_H

#include <stdint.h>

/* Requantisation of two output channels of a product. */
typedef struct {
    int32_t start_low;  /* bias of the even channel: where accL begins */
    int32_t start_high; /* 256 * bias of the odd channel + bias of the even one: where accH begins */
    int32_t multiplier_even, addend_even, shift_even;
    int32_t multiplier_odd, addend_odd, shift_odd;
} mj_pair;

/* A row of groups times packed weights. */
typedef struct {
    const uint32_t *x;     /* groups */
    const uint32_t *weights; /* count x depth words */
    const mj_pair *pairs;  /* count */
    void *out;             /* planes: where pixel 0 of channel 0 goes (word aligned); pixels: pixel 0, channel 0 */
    int32_t pixels;        /* in the row, at least 1; results up to the next multiple of four may be written, as garbage */
    int32_t depth;         /* words per pixel, at least 1 */
    int32_t count;         /* pairs of channels, at least 1; both channels of the last pair are written */
    int32_t distance;      /* planes: bytes from a channel's plane to the next; pixels: bytes from a pixel to the next */
    int32_t step;          /* planes: bytes from one column pair to the next, 4 * slots */
    uint32_t low, high;    /* bounds, each twice as int16 in one word; *_clamped only */
} mj_product;

/* int8 values as int16 into planes: word q of channel c at out + c * distance + q * step */
void mj_product_planes(const mj_product *p);
void mj_product_planes_clamped(const mj_product *p);
/* int8 values into pixels: channel c of pixel i at out + i * distance + c. Pairs are written in ascending order, so that
 * the partner of an odd last channel overwrites the first byte of the next pixel (the caller gives a scratch row). */
void mj_product_pixels(const mj_product *p);
void mj_product_pixels_clamped(const mj_product *p);

/* One channel of a depthwise convolution. taps: kernel_height rows; a row of three taps is two words (w0, w1), (w1, w2);
 * a row of any other width is its taps in pairs, (w0, w1), (w2, w3), ..., the last one filled up with zero. */
typedef struct {
    int32_t bias, multiplier, addend, shift;
    uint32_t taps[];
} mj_filter;

/* A row of a depthwise convolution, from planes to groups. */
typedef struct {
    const uint32_t *planes; /* the word of channel 0 that holds the first column under the window of output 0 */
    const uint32_t *filters; /* one mj_filter per channel, filter_bytes apart */
    uint32_t *groups;       /* channel c is half c mod 2 of word c / 2 */
    int32_t pixels;         /* outputs in the row, at least 1; up to the next multiple of four may be written, as garbage,
                             * and the columns under their windows may be read */
    int32_t channels;       /* at least 1 */
    int32_t plane;          /* bytes from a channel's plane to the next */
    int32_t group;          /* bytes from a group to the next: 16 * depth */
    int32_t top;            /* slot of the row under the top of the window; the others follow, modulo slots */
    int32_t slots;          /* rows in a plane: the height of the window */
    int32_t width;          /* of the window */
    int32_t stride;         /* horizontal: 1 or 2 */
    int32_t phase;          /* 0: the first column is the low half of its word; 1: the high half */
    int32_t filter_bytes;
    uint32_t low, high;     /* as above */
} mj_filter_row;

/* any window; plain C on every core */
void mj_filter_row_any(const mj_filter_row *f);
/* 3 x 3, slots = 3; the number is the stride, then the phase */
void mj_filter_row_3x3_s1_p0(const mj_filter_row *f);
void mj_filter_row_3x3_s1_p1(const mj_filter_row *f);
void mj_filter_row_3x3_s2_p0(const mj_filter_row *f);
void mj_filter_row_3x3_s2_p1(const mj_filter_row *f);
/* 5 x 5 and 7 x 7, likewise */
void mj_filter_row_5x5_s1_p0(const mj_filter_row *f);
void mj_filter_row_5x5_s1_p1(const mj_filter_row *f);
void mj_filter_row_5x5_s2_p0(const mj_filter_row *f);
void mj_filter_row_5x5_s2_p1(const mj_filter_row *f);
void mj_filter_row_7x7_s1_p0(const mj_filter_row *f);
void mj_filter_row_7x7_s1_p1(const mj_filter_row *f);
void mj_filter_row_7x7_s2_p0(const mj_filter_row *f);
void mj_filter_row_7x7_s2_p1(const mj_filter_row *f);
/* every other window up to 7 x 7, likewise: mj_filter_row_<height>x<width>_s<stride>_p<phase> */
#define MJ_FILTER_ROWS(height, width)                                                                                  \
    void mj_filter_row_##height##x##width##_s1_p0(const mj_filter_row *f);                                             \
    void mj_filter_row_##height##x##width##_s1_p1(const mj_filter_row *f);                                             \
    void mj_filter_row_##height##x##width##_s2_p0(const mj_filter_row *f);                                             \
    void mj_filter_row_##height##x##width##_s2_p1(const mj_filter_row *f);
MJ_FILTER_ROWS(1, 1) MJ_FILTER_ROWS(1, 2) MJ_FILTER_ROWS(1, 3) MJ_FILTER_ROWS(1, 4) MJ_FILTER_ROWS(1, 5) MJ_FILTER_ROWS(1, 6) MJ_FILTER_ROWS(1, 7)
MJ_FILTER_ROWS(2, 1) MJ_FILTER_ROWS(2, 2) MJ_FILTER_ROWS(2, 3) MJ_FILTER_ROWS(2, 4) MJ_FILTER_ROWS(2, 5) MJ_FILTER_ROWS(2, 6) MJ_FILTER_ROWS(2, 7)
MJ_FILTER_ROWS(3, 1) MJ_FILTER_ROWS(3, 2) MJ_FILTER_ROWS(3, 4) MJ_FILTER_ROWS(3, 5) MJ_FILTER_ROWS(3, 6) MJ_FILTER_ROWS(3, 7)
MJ_FILTER_ROWS(4, 1) MJ_FILTER_ROWS(4, 2) MJ_FILTER_ROWS(4, 3) MJ_FILTER_ROWS(4, 4) MJ_FILTER_ROWS(4, 5) MJ_FILTER_ROWS(4, 6) MJ_FILTER_ROWS(4, 7)
MJ_FILTER_ROWS(5, 1) MJ_FILTER_ROWS(5, 2) MJ_FILTER_ROWS(5, 3) MJ_FILTER_ROWS(5, 4) MJ_FILTER_ROWS(5, 6) MJ_FILTER_ROWS(5, 7)
MJ_FILTER_ROWS(6, 1) MJ_FILTER_ROWS(6, 2) MJ_FILTER_ROWS(6, 3) MJ_FILTER_ROWS(6, 4) MJ_FILTER_ROWS(6, 5) MJ_FILTER_ROWS(6, 6) MJ_FILTER_ROWS(6, 7)
MJ_FILTER_ROWS(7, 1) MJ_FILTER_ROWS(7, 2) MJ_FILTER_ROWS(7, 3) MJ_FILTER_ROWS(7, 4) MJ_FILTER_ROWS(7, 5) MJ_FILTER_ROWS(7, 6)

#endif
