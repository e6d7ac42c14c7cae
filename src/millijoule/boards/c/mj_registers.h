/* Register access and the core's own registers.
 * A field is written as "position, width" so that a test can hold it against the vendor's facts. */
#ifndef MJ_REGISTERS_H
#define MJ_REGISTERS_H
#include <stdint.h>

#define MJ_REGISTER(base, offset) (*(volatile uint32_t *)((base) + (offset)))
#define MJ_MASK_OF(position, width) ((0xFFFFFFFFu >> (32u - (width))) << (position))
#define MJ_VALUE_OF(position, width, value) (((uint32_t)(value) & (0xFFFFFFFFu >> (32u - (width)))) << (position))
#define MJ_GET_OF(word, position, width) (((word) >> (position)) & (0xFFFFFFFFu >> (32u - (width))))
/* One step of indirection lets a field macro expand to its two numbers first. */
#define MJ_MASK(...) MJ_MASK_OF(__VA_ARGS__)
#define MJ_VALUE(...) MJ_VALUE_OF(__VA_ARGS__)
#define MJ_GET(...) MJ_GET_OF(__VA_ARGS__)
/* Read-modify-write of one field. */
#define MJ_SET(reg, ...) MJ_SET_OF(reg, __VA_ARGS__)
#define MJ_SET_OF(reg, position, width, value) \
    ((reg) = ((reg) & ~MJ_MASK_OF(position, width)) | MJ_VALUE_OF(position, width, value))

/* Core registers: Armv7-M Architecture Reference Manual, B3.2 (system control block), C1.8 (data watchpoint and trace). */
#define CORE_SCB_BASE 0xE000ED00u
#define CORE_SCB_CCR MJ_REGISTER(CORE_SCB_BASE, 0x14u)
#define CORE_SCB_CCR_DIV_0_TRP 4, 1
#define CORE_SCB_CCR_DC 16, 1
#define CORE_SCB_CCR_IC 17, 1
#define CORE_SCB_SHCSR MJ_REGISTER(CORE_SCB_BASE, 0x24u)
#define CORE_SCB_SHCSR_MEMFAULTENA 16, 1
#define CORE_SCB_SHCSR_BUSFAULTENA 17, 1
#define CORE_SCB_SHCSR_USGFAULTENA 18, 1
#define CORE_SCB_CFSR MJ_REGISTER(CORE_SCB_BASE, 0x28u)
#define CORE_SCB_HFSR MJ_REGISTER(CORE_SCB_BASE, 0x2Cu)
#define CORE_SCB_MMFAR MJ_REGISTER(CORE_SCB_BASE, 0x34u)
#define CORE_SCB_BFAR MJ_REGISTER(CORE_SCB_BASE, 0x38u)
#define CORE_SCB_CCSIDR MJ_REGISTER(CORE_SCB_BASE, 0x80u)
#define CORE_SCB_CSSELR MJ_REGISTER(CORE_SCB_BASE, 0x84u)
#define CORE_SCB_CPACR MJ_REGISTER(CORE_SCB_BASE, 0x88u)
#define CORE_SCB_CPACR_FPU 20, 4
/* Cache maintenance of the Cortex-M7: invalidate all instructions; invalidate data by set and way. */
#define CORE_CACHE_BASE 0xE000EF50u
#define CORE_CACHE_ICIALLU MJ_REGISTER(CORE_CACHE_BASE, 0x00u)
#define CORE_CACHE_DCISW MJ_REGISTER(CORE_CACHE_BASE, 0x10u)
#define CORE_DEBUG_BASE 0xE000EDF0u
#define CORE_DEBUG_DEMCR MJ_REGISTER(CORE_DEBUG_BASE, 0x0Cu)
#define CORE_DEBUG_DEMCR_TRCENA 24, 1
#define CORE_DWT_BASE 0xE0001000u
#define CORE_DWT_CTRL MJ_REGISTER(CORE_DWT_BASE, 0x00u)
#define CORE_DWT_CTRL_CYCCNTENA 0, 1
#define CORE_DWT_CYCCNT MJ_REGISTER(CORE_DWT_BASE, 0x04u)
#define CORE_DWT_LAR MJ_REGISTER(CORE_DWT_BASE, 0xFB0u) /* unlock key 0xC5ACCE55 on the Cortex-M7 */

#endif
