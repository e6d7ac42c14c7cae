#include "mj_kernels.h"
#include "mj_requantize.h"

/* y[i] = left[i] + right[i], each with its own scale; arithmetic.add_int8. y may be left or right. */
void mj_add_s8(const int8_t *left, const int8_t *right, int8_t *y, int32_t count, const mj_add_params *params)
{
#if defined(MJ_ROUNDING_MULHI)
    const int32_t zero = params->out_zero, low = params->low - zero, high = params->high - zero;
    const int32_t step = INT32_C(1) << params->left_shift;
    for (int32_t i = 0; i < count; ++i) {
        const int64_t a = (int64_t)((left[i] - params->left_zero) * step) * params->left_multiplier;
        const int64_t b = (int64_t)((right[i] - params->right_zero) * step) * params->right_multiplier;
        y[i] = (int8_t)(mj_clamp((int32_t)((a + b + (INT64_C(1) << 31)) >> 32), low, high) + zero);
    }
#else
    const int32_t headroom = INT32_C(1) << 20; /* arithmetic.ADD_LEFT_SHIFT */
    for (int32_t i = 0; i < count; ++i) {
        const int32_t a = mj_requantize((left[i] - params->left_zero) * headroom, params->left_multiplier,
                                        params->left_shift);
        const int32_t b = mj_requantize((right[i] - params->right_zero) * headroom, params->right_multiplier,
                                        params->right_shift);
        y[i] = mj_requantize_s8(a + b, params->out_multiplier, params->out_shift, params->out_zero, params->low,
                                params->high);
    }
#endif
}
