/* The Armv7E-M instructions that the _dsp kernels use, by their own names, in three forms:
 *   clang for Arm  ACLE intrinsics and plain C that clang turns into the one instruction (checked in the disassembly)
 *   GCC for Arm    the same intrinsics, inline assembly where GCC does not fold a rotation or a half-word product;
 *                  define MJ_DSP_ASSEMBLY to have that with clang, too
 *   elsewhere      portable C with the same results, so that the kernels run and are tested on any computer
 * A word of four int8 is loaded by mj_load_s8x4: little-endian, from any address (the cores do unaligned LDR). */
#ifndef MJ_DSP_H
#define MJ_DSP_H

#include <stdint.h>

#if defined(__ARM_FEATURE_DSP) && __ARM_FEATURE_DSP
#define MJ_DSP_ARM 1
#include <arm_acle.h>
#if !defined(__clang__) && !defined(MJ_DSP_ASSEMBLY)
#define MJ_DSP_ASSEMBLY
#endif
#else
#define MJ_DSP_ARM 0
#endif

/* The four sums are complete here: compilers may not move their parts across, which would cost registers. No code. */
#define MJ_IN_ORDER(a, b, c, d) __asm__ volatile("" : "+r"(a), "+r"(b), "+r"(c), "+r"(d))

static inline uint32_t mj_load_s8x4(const int8_t *x)
{
    uint32_t word;
    __builtin_memcpy(&word, x, 4);
    return word;
}

static inline void mj_store_s8x4(int8_t *y, uint32_t word)
{
    __builtin_memcpy(y, &word, 4);
}

/* the first count (1..3) bytes of a word, the others 0; never reads beyond them */
static inline uint32_t mj_load_s8_part(const int8_t *x, int32_t count)
{
    uint32_t word = (uint8_t)x[0];
    if (count > 1) {
        word |= (uint32_t)(uint8_t)x[1] << 8;
    }
    if (count > 2) {
        word |= (uint32_t)(uint8_t)x[2] << 16;
    }
    return word;
}

/* x + y, saturated to 32 bits */
static inline int32_t mj_qadd(int32_t x, int32_t y)
{
#if MJ_DSP_ARM
    return __qadd(x, y);
#else
    const int64_t sum = (int64_t)x + y;
    return sum < INT32_MIN ? INT32_MIN : sum > INT32_MAX ? INT32_MAX : (int32_t)sum;
#endif
}

/* acc + x.low * y.low + x.high * y.high, halves as int16 */
static inline int32_t mj_smlad(uint32_t x, uint32_t y, int32_t acc)
{
#if MJ_DSP_ARM
    return __smlad((int16x2_t)x, (int16x2_t)y, acc);
#else
    return acc + (int16_t)x * (int16_t)y + (int16_t)(x >> 16) * (int16_t)(y >> 16);
#endif
}

/* acc + x.low * y.low */
static inline int32_t mj_smlabb(uint32_t x, uint32_t y, int32_t acc)
{
#if MJ_DSP_ARM && defined(MJ_DSP_ASSEMBLY)
    int32_t result;
    __asm__("smlabb %0, %1, %2, %3" : "=r"(result) : "r"(x), "r"(y), "r"(acc));
    return result;
#elif MJ_DSP_ARM
    return __smlabb((int32_t)x, (int32_t)y, acc);
#else
    return acc + (int16_t)x * (int16_t)y;
#endif
}

/* acc + x.high * y.high */
static inline int32_t mj_smlatt(uint32_t x, uint32_t y, int32_t acc)
{
#if MJ_DSP_ARM && defined(MJ_DSP_ASSEMBLY)
    int32_t result;
    __asm__("smlatt %0, %1, %2, %3" : "=r"(result) : "r"(x), "r"(y), "r"(acc));
    return result;
#elif MJ_DSP_ARM
    return __smlatt((int32_t)x, (int32_t)y, acc);
#else
    return acc + (int16_t)(x >> 16) * (int16_t)(y >> 16);
#endif
}

/* acc + ((x * y.low) >> 16), the product in 48 bits; the sum must fit */
static inline int32_t mj_smlawb(int32_t x, uint32_t y, int32_t acc)
{
#if MJ_DSP_ARM
    return __smlawb(x, (int32_t)y, acc);
#else
    return acc + (int32_t)(((int64_t)x * (int16_t)y) >> 16);
#endif
}

/* acc + ((x * y.high) >> 16) */
static inline int32_t mj_smlawt(int32_t x, uint32_t y, int32_t acc)
{
#if MJ_DSP_ARM
    return __smlawt(x, (int32_t)y, acc);
#else
    return acc + (int32_t)(((int64_t)x * (int16_t)(y >> 16)) >> 16);
#endif
}

/* (x - y) / 2 of each half as int16, rounded down; the difference has 17 bits */
static inline uint32_t mj_shsub16(uint32_t x, uint32_t y)
{
#if MJ_DSP_ARM
    return (uint32_t)__shsub16((int16x2_t)x, (int16x2_t)y);
#else
    const int32_t low = ((int16_t)x - (int16_t)y) >> 1, high = ((int16_t)(x >> 16) - (int16_t)(y >> 16)) >> 1;
    return (uint32_t)(uint16_t)low | (uint32_t)(uint16_t)high << 16;
#endif
}

/* the larger of each of four int8; one statement, because SEL reads the flags that SSUB8 sets */
static inline uint32_t mj_max_s8x4(uint32_t x, uint32_t y)
{
#if MJ_DSP_ARM
    uint32_t result;
    __asm__("ssub8 %0, %1, %2\n\tsel %0, %1, %2" : "=&r"(result) : "r"(x), "r"(y) : "cc");
    return result;
#else
    uint32_t result = 0;
    for (int32_t byte = 0; byte < 32; byte += 8) {
        const int8_t a = (int8_t)(x >> byte), b = (int8_t)(y >> byte);
        result |= (uint32_t)(uint8_t)(a > b ? a : b) << byte;
    }
    return result;
#endif
}

/* x - y in each half, modulo 2^16 */
static inline uint32_t mj_ssub16(uint32_t x, uint32_t y)
{
#if MJ_DSP_ARM
    return (uint32_t)__ssub16((int16x2_t)x, (int16x2_t)y);
#else
    return ((x - y) & 0xffffu) | ((x >> 16) - (y >> 16)) << 16;
#endif
}

/* bytes 0 and 2 as two int16 */
static inline uint32_t mj_sxtb16(uint32_t x)
{
#if MJ_DSP_ARM
    return (uint32_t)__sxtb16((int8x4_t)x);
#else
    return (uint32_t)(uint16_t)(int8_t)x | (uint32_t)(uint16_t)(int8_t)(x >> 16) << 16;
#endif
}

/* bytes 1 and 3 as two int16 */
static inline uint32_t mj_sxtb16_ror8(uint32_t x)
{
#if MJ_DSP_ARM && defined(MJ_DSP_ASSEMBLY)
    uint32_t result;
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(result) : "r"(x));
    return result;
#else
    return mj_sxtb16(x >> 8 | x << 24);
#endif
}

/* the halves of acc plus bytes 0 and 2 */
static inline uint32_t mj_sxtab16(uint32_t acc, uint32_t x)
{
#if MJ_DSP_ARM
    return (uint32_t)__sxtab16((int16x2_t)acc, (int8x4_t)x);
#else
    const uint32_t low = acc + (uint32_t)(int8_t)x, high = (acc >> 16) + (uint32_t)(int8_t)(x >> 16);
    return (low & 0xffffu) | high << 16;
#endif
}

/* the halves of acc plus bytes 1 and 3 */
static inline uint32_t mj_sxtab16_ror8(uint32_t acc, uint32_t x)
{
#if MJ_DSP_ARM && defined(MJ_DSP_ASSEMBLY)
    uint32_t result;
    __asm__("sxtab16 %0, %1, %2, ror #8" : "=r"(result) : "r"(acc), "r"(x));
    return result;
#else
    return mj_sxtab16(acc, x >> 8 | x << 24);
#endif
}

/* the low half of x below the low half of y */
static inline uint32_t mj_pkhbt(uint32_t x, uint32_t y)
{
#if MJ_DSP_ARM && defined(MJ_DSP_ASSEMBLY)
    uint32_t result;
    __asm__("pkhbt %0, %1, %2, lsl #16" : "=r"(result) : "r"(x), "r"(y));
    return result;
#else
    return (x & 0xffffu) | y << 16;
#endif
}

/* the high half of x below the high half of y */
static inline uint32_t mj_pkhtb(uint32_t x, uint32_t y)
{
#if MJ_DSP_ARM && defined(MJ_DSP_ASSEMBLY)
    uint32_t result;
    __asm__("pkhtb %0, %1, %2, asr #16" : "=r"(result) : "r"(y), "r"(x));
    return result;
#else
    return (y & 0xffff0000u) | x >> 16;
#endif
}

#endif
