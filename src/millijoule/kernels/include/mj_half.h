/* 16-bit floats (IEEE 754 binary16) as weights. They are widened with integer operations and one multiplication, which
 * is exact for every finite number, subnormal ones too: the exponents of the two formats differ by 112. */
#ifndef MJ_HALF_H
#define MJ_HALF_H

#include <stdint.h>

static inline float mj_half(uint16_t stored)
{
    union {
        uint32_t bits;
        float value;
    } wide = {(uint32_t)(stored & 0x7fffu) << 13};
    wide.value *= 0x1p112f;
    wide.bits |= (uint32_t)(stored & 0x8000u) << 16;
    return wide.value;
}

#endif
