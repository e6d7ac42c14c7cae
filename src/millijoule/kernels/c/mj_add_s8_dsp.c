#include "mj_dsp.h"
#include "mj_kernels.h"
#include "mj_requantize.h"

#if defined(MJ_ROUNDING_MULHI)
/* The sum of both products, their zero points, half a step and the zero point of the result in one 64-bit number: two
 * SMLAL. Inlined with a constant `full`: the bounds are those of int8. */
static inline __attribute__((always_inline)) void sums(const int8_t *left, const int8_t *right, int8_t *y,
                                                       int32_t count, const mj_add_params *params, const int32_t full)
{
    const int32_t l = params->left_multiplier, r = params->right_multiplier, step = INT32_C(1) << params->left_shift;
    const int32_t low = params->low, high = params->high;
    const int64_t zeros = (int64_t)params->left_zero * l + (int64_t)params->right_zero * r;
    const int64_t start = (int64_t)params->out_zero * (INT64_C(1) << 32) + (INT64_C(1) << 31) - zeros * step;
    for (; count >= 4; count -= 4, left += 4, right += 4, y += 4) {
        const uint32_t lx = mj_load_s8x4(left), rx = mj_load_s8x4(right);
        for (int32_t i = 0; i < 4; ++i) {
            const int32_t a = (int8_t)(lx >> 8 * i) * step, b = (int8_t)(rx >> 8 * i) * step;
            const int32_t value = (int32_t)((start + (int64_t)a * l + (int64_t)b * r) >> 32);
            y[i] = (int8_t)(full ? mj_clamp(value, -128, 127) : mj_clamp(value, low, high));
        }
    }
    for (; count > 0; --count, ++left, ++right, ++y) {
        const int64_t sum = start + (int64_t)(*left * step) * l + (int64_t)(*right * step) * r;
        *y = (int8_t)mj_clamp((int32_t)(sum >> 32), low, high);
    }
}
#else
#define MJ_EVEN_BYTES 0xff00ff00u

/* one input: 2^20 * (value - zero) * multiplier * 2^(shift - 31), rounded, for shift in [-29, 0] */
typedef struct {
    uint32_t zeros; /* the zero point * 2^8 in both halves */
    int32_t multiplier, shift;
} side;

static inline side side_of(int32_t zero, int32_t multiplier, int32_t shift)
{
    const side s = {((uint32_t)zero << 8 & 0xffffu) * 0x10001u, multiplier, shift};
    return s;
}

/* product: (2^7 * (value - zero) * multiplier) >> 16 plus `first_half(shift)`, which SMLAW adds. What SMLAW drops lies
 * below the rounding bit. */
#if defined(MJ_ROUNDING_SINGLE)
static inline int32_t first_half(int32_t shift)
{
    return INT32_C(1) << (1 - shift);
}

static inline int32_t rescale(int32_t product, int32_t shift)
{
    return product >> (2 - shift);
}

static inline int32_t result(int32_t sum, int32_t multiplier, int32_t half, int32_t down)
{
    return ((int32_t)(((int64_t)sum * multiplier) >> 32) + half) >> (down - 1);
}
#else
static inline int32_t first_half(int32_t shift)
{
    (void)shift;
    return 2;
}

static inline int32_t rescale(int32_t product, int32_t shift)
{
    const int32_t high = product >> 2, half = (INT32_C(1) << -shift) >> 1;
    return (high + half + ((high >> 31) & -(shift < 0))) >> -shift;
}

static inline int32_t result(int32_t sum, int32_t multiplier, int32_t half, int32_t down)
{
    /* (2 * sum * multiplier + 2^31) >> 32 is SMMULR */
    const int32_t high = (int32_t)(((int64_t)(2 * sum) * multiplier + (INT64_C(1) << 31)) >> 32);
    return (high + (high >> 31) + half) >> down;
}
#endif

/* Four at a time, for the shifts that `fast` names. Inlined with a constant `full`: the bounds are those of int8. */
static inline __attribute__((always_inline)) void quads(const int8_t *left, const int8_t *right, int8_t *y,
                                                        int32_t count, const mj_add_params *params, const int32_t full)
{
    const side l = side_of(params->left_zero, params->left_multiplier, params->left_shift);
    const side r = side_of(params->right_zero, params->right_multiplier, params->right_shift);
    const int32_t l_half = first_half(l.shift), r_half = first_half(r.shift);
    const int32_t multiplier = params->out_multiplier, down = -params->out_shift;
    const int32_t low = params->low, high = params->high;
    /* the zero point of the result goes through the shift together with the half */
#if defined(MJ_ROUNDING_SINGLE)
    const int32_t half = (INT32_C(1) << (down - 2)) + params->out_zero * (INT32_C(1) << (down - 1));
#else
    const int32_t half = (INT32_C(1) << (down - 1)) + params->out_zero * (INT32_C(1) << down);
#endif
    for (; count >= 4; count -= 4, left += 4, right += 4, y += 4) {
        const uint32_t lx = mj_load_s8x4(left), rx = mj_load_s8x4(right);
        const uint32_t l02 = mj_shsub16(lx << 8 & MJ_EVEN_BYTES, l.zeros), l13 = mj_shsub16(lx & MJ_EVEN_BYTES, l.zeros);
        const uint32_t r02 = mj_shsub16(rx << 8 & MJ_EVEN_BYTES, r.zeros), r13 = mj_shsub16(rx & MJ_EVEN_BYTES, r.zeros);
        const int32_t sums[4] = {
            rescale(mj_smlawb(l.multiplier, l02, l_half), l.shift) +
                rescale(mj_smlawb(r.multiplier, r02, r_half), r.shift),
            rescale(mj_smlawb(l.multiplier, l13, l_half), l.shift) +
                rescale(mj_smlawb(r.multiplier, r13, r_half), r.shift),
            rescale(mj_smlawt(l.multiplier, l02, l_half), l.shift) +
                rescale(mj_smlawt(r.multiplier, r02, r_half), r.shift),
            rescale(mj_smlawt(l.multiplier, l13, l_half), l.shift) +
                rescale(mj_smlawt(r.multiplier, r13, r_half), r.shift),
        };
        for (int32_t i = 0; i < 4; ++i) {
            const int32_t value = result(sums[i], multiplier, half, down);
            y[i] = (int8_t)(full ? mj_clamp(value, -128, 127) : mj_clamp(value, low, high));
        }
    }
}

/* The shifts of every plan whose scales differ by less than 2^20; then all intermediate results fit into 32 bits. */
static inline int32_t fast(const mj_add_params *params)
{
    return params->left_shift <= 0 && params->left_shift >= -29 && params->right_shift <= 0 &&
           params->right_shift >= -29 && params->out_shift <= -2 && params->out_shift >= -22;
}

#endif

/* mj_add_s8, four elements at a time. Rounding single and double: the input less its zero point is moved up by 7 bits in
 * 16, so that SMLAW does the first requantisation without a left shift. y may be left or right. */
void mj_add_s8_dsp(const int8_t *left, const int8_t *right, int8_t *y, int32_t count, const mj_add_params *params)
{
#if defined(MJ_ROUNDING_MULHI)
    if (params->low == -128 && params->high == 127) {
        sums(left, right, y, count, params, 1);
    } else {
        sums(left, right, y, count, params, 0);
    }
#else
    int32_t i = 0;
    if (fast(params)) {
        if (params->low == -128 && params->high == 127) {
            quads(left, right, y, count, params, 1);
        } else {
            quads(left, right, y, count, params, 0);
        }
        i = count / 4 * 4;
    }
    const int32_t headroom = INT32_C(1) << 20; /* arithmetic.ADD_LEFT_SHIFT */
    for (; i < count; ++i) { /* one to three are left, or all with uncommon shifts */
        const int32_t a = mj_requantize((left[i] - params->left_zero) * headroom, params->left_multiplier,
                                        params->left_shift);
        const int32_t b = mj_requantize((right[i] - params->right_zero) * headroom, params->right_multiplier,
                                        params->right_shift);
        y[i] = mj_requantize_s8(a + b, params->out_multiplier, params->out_shift, params->out_zero, params->low,
                                params->high);
    }
#endif
}
