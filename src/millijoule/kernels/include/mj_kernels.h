/* The contract of every kernel: layouts, ranges, rounding, scratch.
 *
 * Feature maps are NHWC with batch 1, rows top to bottom. Weights: OHWI (conv2d), HWC (depthwise_conv2d), OI (dense).
 * Weights lie in [-127, 127]. int8 results are clamp(requantize(acc, multiplier[c], shift[c]) + out_zero, low, high).
 * `bias` of the int8 kernels is FOLDED: bias[c] - in_zero * sum(weights of c). A kernel therefore adds x * w without the
 * zero point, and taps outside the picture read as in_zero. Sums are proven to stay within 32 bits by the compiler.
 *
 * Names: mj_<operation>_<type>[_<variant>], one function per file of that name. No variant: plain C, the readable
 * definition. Variant dsp: for cores with the Armv7E-M DSP extension; bit-identical; it also builds on the host through
 * the portable versions of the intrinsics in mj_dsp.h. Types: s8 int8, f32 float, f16 float data with
 * weights and bias of 16-bit floats (mj_half.h), dyn float data with int8 weights.
 * Scratch sizes are computed by registry.py beside this folder; chains of convolutions by rows have headers of their own (mj_row_engine.h); scratch is 4-byte aligned.
 */
#ifndef MJ_KERNELS_H
#define MJ_KERNELS_H

#include <stdint.h>

typedef struct {
    uint16_t in_height, in_width, in_channels;
    uint16_t out_height, out_width, out_channels;
    uint8_t kernel_height, kernel_width;
    uint8_t stride_height, stride_width;
    uint8_t dilation_height, dilation_width;
    uint8_t pad_top, pad_left; /* bottom and right follow from the sizes */
} mj_window;

typedef struct {
    const int32_t *multiplier; /* per output channel, range as in mj_requantize.h */
    const int8_t *shift;       /* per output channel, likewise */
    int32_t in_zero;           /* [-128, 127] */
    int32_t out_zero;          /* [-128, 127] */
    int32_t low, high;         /* clamp of the result, within [-128, 127] */
} mj_requant;

typedef struct {
    int32_t left_zero, right_zero, out_zero;
    int32_t left_multiplier, right_multiplier, out_multiplier;
    int32_t left_shift, right_shift, out_shift; /* MJ_ROUNDING_MULHI: left = right, [0, 21]; out_* are not used */
    int32_t low, high;
} mj_add_params;

/* picture bytes -> int8 through a table; table_channels is 1 (one table for all) or channels */
void mj_normalize_s8(const uint8_t *x, int8_t *y, int32_t pixels, int32_t channels, const int8_t *table,
                     int32_t table_channels);
/* picture bytes -> float: x * scale[c] + offset[c] */
void mj_normalize_f32(const uint8_t *x, float *y, int32_t pixels, int32_t channels, const float *scale,
                      const float *offset);

void mj_conv2d_s8(const int8_t *x, const int8_t *weights, const int32_t *bias, int8_t *y, const mj_window *window,
                  const mj_requant *requant, void *scratch);
void mj_conv2d_s8_dsp(const int8_t *x, const int8_t *weights, const int32_t *bias, int8_t *y, const mj_window *window,
                      const mj_requant *requant, void *scratch);
/* 1x1, stride 1, no padding */
void mj_pointwise_s8(const int8_t *x, const int8_t *weights, const int32_t *bias, int8_t *y, const mj_window *window,
                     const mj_requant *requant, void *scratch);
void mj_pointwise_s8_dsp(const int8_t *x, const int8_t *weights, const int32_t *bias, int8_t *y,
                         const mj_window *window, const mj_requant *requant, void *scratch);
void mj_depthwise_s8(const int8_t *x, const int8_t *weights, const int32_t *bias, int8_t *y, const mj_window *window,
                     const mj_requant *requant, void *scratch);
void mj_depthwise_s8_dsp(const int8_t *x, const int8_t *weights, const int32_t *bias, int8_t *y,
                         const mj_window *window, const mj_requant *requant, void *scratch);
void mj_dense_s8(const int8_t *x, const int8_t *weights, const int32_t *bias, int8_t *y, int32_t in_features,
                 int32_t out_features, const mj_requant *requant, void *scratch);
void mj_dense_s8_dsp(const int8_t *x, const int8_t *weights, const int32_t *bias, int8_t *y, int32_t in_features,
                     int32_t out_features, const mj_requant *requant, void *scratch);
/* on packed lanes: mj_dense.h. pairs: an mj_pair for every two features */
void mj_dense_s8_lanes(const int8_t *x, const uint32_t *weights, const int32_t *pairs, int8_t *y, int32_t in_features,
                       int32_t out_features, int32_t low, int32_t high, void *scratch);
/* the same with weights of 4 bits, packed as in mj_unpack.h, times 2^up; those of `tile` features, a multiple of four, are
 * unpacked at a time behind the input */
void mj_dense_s4_lanes(const int8_t *x, const uint32_t *weights, const int32_t *pairs, int8_t *y, int32_t in_features,
                       int32_t out_features, int32_t low, int32_t high, void *scratch, int32_t up,
                       int32_t tile);
/* y may be left or right */
void mj_add_s8(const int8_t *left, const int8_t *right, int8_t *y, int32_t count, const mj_add_params *params);
void mj_add_s8_dsp(const int8_t *left, const int8_t *right, int8_t *y, int32_t count, const mj_add_params *params);
/* (height * width, channels) -> channels; acc = sum(x) - in_zero * pixels, one multiplier for all channels */
void mj_mean_s8(const int8_t *x, int8_t *y, int32_t pixels, int32_t channels, int32_t in_zero, int32_t out_zero,
                int32_t multiplier, int32_t shift, int32_t low, int32_t high);
void mj_mean_s8_dsp(const int8_t *x, int8_t *y, int32_t pixels, int32_t channels, int32_t in_zero, int32_t out_zero,
                    int32_t multiplier, int32_t shift, int32_t low, int32_t high);
void mj_avg_pool_s8(const int8_t *x, int8_t *y, const mj_window *window, int32_t low, int32_t high);
void mj_max_pool_s8(const int8_t *x, int8_t *y, const mj_window *window, int32_t low, int32_t high);
void mj_pad_s8(const int8_t *x, int8_t *y, int32_t height, int32_t width, int32_t channels, int32_t top,
               int32_t bottom, int32_t left, int32_t right, int32_t zero);
/* x (height, width, channels) -> y (width, height, channels), elsewhere */
void mj_transpose_s8(const int8_t *x, int8_t *y, int32_t height, int32_t width, int32_t channels);
void mj_clamp_s8(const int8_t *x, int8_t *y, int32_t count, int32_t low, int32_t high);
/* table: 256 entries of arithmetic.softmax_table */
void mj_softmax_s8(const int8_t *x, int8_t *y, int32_t classes, const uint32_t *table);
void mj_softmax_s8_dsp(const int8_t *x, int8_t *y, int32_t classes, const uint32_t *table);
void mj_quantize_s8(const float *x, int8_t *y, int32_t count, float scale, int32_t zero);
void mj_dequantize_s8(const int8_t *x, float *y, int32_t count, float scale, int32_t zero);

/* Float data, int8 weights (dynamic quantisation): the range of x is found, x is quantised into scratch, sums are
 * integers, y = (float)acc * (x_scale * weight_scale[c]) + bias[c], clamped to [low, high]. bias may be NULL. Here the
 * weight sums are needed at run time: weight_sums[c] = sum(weights of c), and taps outside the picture read as the
 * run-time zero point. arithmetic.dynamic_range and dynamic_quantize are the definition. */
typedef struct {
    const float *weight_scale; /* per output channel */
    const int32_t *weight_sums; /* per output channel */
    float low, high;
} mj_dynamic;
void mj_conv2d_dyn(const float *x, const int8_t *weights, const float *bias, float *y, const mj_window *window,
                   const mj_dynamic *dynamic, void *scratch);
void mj_depthwise_dyn(const float *x, const int8_t *weights, const float *bias, float *y, const mj_window *window,
                      const mj_dynamic *dynamic, void *scratch);
void mj_dense_dyn(const float *x, const int8_t *weights, const float *bias, float *y, int32_t in_features,
                  int32_t out_features, const mj_dynamic *dynamic, void *scratch);

void mj_conv2d_f32(const float *x, const float *weights, const float *bias, float *y, const mj_window *window,
                   float low, float high);
void mj_depthwise_f32(const float *x, const float *weights, const float *bias, float *y, const mj_window *window,
                      float low, float high);
void mj_dense_f32(const float *x, const float *weights, const float *bias, float *y, int32_t in_features,
                  int32_t out_features, float low, float high);
void mj_conv2d_f16(const float *x, const uint16_t *weights, const uint16_t *bias, float *y, const mj_window *window,
                   float low, float high);
void mj_depthwise_f16(const float *x, const uint16_t *weights, const uint16_t *bias, float *y, const mj_window *window,
                      float low, float high);
void mj_dense_f16(const float *x, const uint16_t *weights, const uint16_t *bias, float *y, int32_t in_features,
                  int32_t out_features, float low, float high);
void mj_add_f32(const float *left, const float *right, float *y, int32_t count, float low, float high);
void mj_mean_f32(const float *x, float *y, int32_t pixels, int32_t channels);
void mj_avg_pool_f32(const float *x, float *y, const mj_window *window);
void mj_max_pool_f32(const float *x, float *y, const mj_window *window);
void mj_pad_f32(const float *x, float *y, int32_t height, int32_t width, int32_t channels, int32_t top,
                int32_t bottom, int32_t left, int32_t right);
void mj_transpose_f32(const float *x, float *y, int32_t height, int32_t width, int32_t channels);
void mj_clamp_f32(const float *x, float *y, int32_t count, float low, float high);
void mj_softmax_f32(const float *x, float *y, int32_t classes);

#endif
