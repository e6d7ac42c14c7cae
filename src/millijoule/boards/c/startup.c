/* Vector table, reset, stack and arena guards, faults that say what happened. Armv7-M, no C library. */
#include "mj_board.h"
#include "mj_registers.h"

extern uint32_t mj_data_load[], mj_data_start[], mj_data_end[], mj_bss_start[], mj_bss_end[];
extern uint32_t mj_stack_limit[], mj_stack_top[];
extern uint32_t mj_fence_low[], mj_fence_low_end[], mj_fence_high[], mj_fence_high_end[];
/* around the second arena; empty where there is none */
extern uint32_t mj_fast_low[], mj_fast_low_end[], mj_fast_high[], mj_fast_high_end[];

int main(void);
void Reset_Handler(void);
void mj_fault_entry(void);
void mj_fault_report(const uint32_t *frame, uint32_t exception);

enum { STACK_PAINT = 0x5C5C5C5C, CANARY_WORDS = 4 };
#define FENCE_PATTERN 0xA5A5A5A5u

typedef void (*vector)(void);
/* The first entry is the initial stack pointer; every exception this firmware does not use ends in the fault report. */
__attribute__((section(".isr_vector"), used)) const vector mj_vectors[16 + MJ_BOARD_INTERRUPTS] = {
    (vector)(uintptr_t)mj_stack_top,
    Reset_Handler,
    [2 ... 15 + MJ_BOARD_INTERRUPTS] = mj_fault_entry,
};

__attribute__((noreturn, used)) void Reset_Handler(void)
{
    CORE_SCB_CPACR |= MJ_MASK(CORE_SCB_CPACR_FPU);
    __asm volatile("dsb\n\tisb" ::: "memory");
    uint32_t *here;
    __asm volatile("mov %0, sp" : "=r"(here));
    for (uint32_t *word = mj_stack_limit; word < here - 16; word++) {
        *(volatile uint32_t *)word = STACK_PAINT;
    }
    const uint32_t *source = mj_data_load;
    for (uint32_t *word = mj_data_start; word < mj_data_end; word++) {
        *(volatile uint32_t *)word = *source++;
    }
    for (uint32_t *word = mj_bss_start; word < mj_bss_end; word++) {
        *(volatile uint32_t *)word = 0;
    }
    mj_arena_fence();
    CORE_SCB_SHCSR |= MJ_MASK(CORE_SCB_SHCSR_MEMFAULTENA) | MJ_MASK(CORE_SCB_SHCSR_BUSFAULTENA) |
                      MJ_MASK(CORE_SCB_SHCSR_USGFAULTENA);
    CORE_SCB_CCR |= MJ_MASK(CORE_SCB_CCR_DIV_0_TRP);
    main();
    mj_halt();
    for (;;) {
    }
}

static void paint_fence(uint32_t *word, const uint32_t *end)
{
    for (; word < end; word++) {
        *(volatile uint32_t *)word = FENCE_PATTERN;
    }
}

static uint32_t fence_difference(const uint32_t *word, const uint32_t *end)
{
    uint32_t difference = 0;
    for (; word < end; word++) {
        difference |= *word ^ FENCE_PATTERN;
    }
    return difference;
}

void mj_arena_fence(void)
{
    paint_fence(mj_fence_low, mj_fence_low_end);
    paint_fence(mj_fence_high, mj_fence_high_end);
    paint_fence(mj_fast_low, mj_fast_low_end);
    paint_fence(mj_fast_high, mj_fast_high_end);
}

int mj_arena_is_fenced(void)
{
    return (fence_difference(mj_fence_low, mj_fence_low_end) | fence_difference(mj_fence_high, mj_fence_high_end) |
            fence_difference(mj_fast_low, mj_fast_low_end) | fence_difference(mj_fast_high, mj_fast_high_end)) == 0;
}

int mj_stack_is_intact(void)
{
    uint32_t difference = 0;
    for (int word = 0; word < CANARY_WORDS; word++) {
        difference |= mj_stack_limit[word] ^ (uint32_t)STACK_PAINT;
    }
    return difference == 0;
}

uint32_t mj_stack_peak(void)
{
    const uint32_t *word = mj_stack_limit;
    while (word < mj_stack_top && *word == (uint32_t)STACK_PAINT) {
        word++;
    }
    return (uint32_t)((uintptr_t)mj_stack_top - (uintptr_t)word);
}

__attribute__((noinline, used)) void mj_halt(void)
{
    for (;;) {
        __asm volatile("" ::: "memory");
    }
}

void mj_cycles_start(void)
{
    CORE_DEBUG_DEMCR |= MJ_MASK(CORE_DEBUG_DEMCR_TRCENA);
    CORE_DWT_LAR = 0xC5ACCE55u;
    CORE_DWT_CYCCNT = 0;
    CORE_DWT_CTRL |= MJ_MASK(CORE_DWT_CTRL_CYCCNTENA);
}

uint32_t mj_cycles(void)
{
    return CORE_DWT_CYCCNT;
}

/* Finds the stacked frame; moves the stack back to its top when it ran out of its memory, so that the report can run. */
__attribute__((naked, used)) void mj_fault_entry(void)
{
    __asm volatile("tst lr, #4\n\t"
                   "ite eq\n\t"
                   "mrseq r0, msp\n\t"
                   "mrsne r0, psp\n\t"
                   "mrs r1, ipsr\n\t"
                   "ldr r2, =mj_stack_limit\n\t"
                   "add r2, r2, #512\n\t"
                   "cmp sp, r2\n\t"
                   "bhs 1f\n\t"
                   "ldr r2, =mj_stack_top\n\t"
                   "mov sp, r2\n\t"
                   "1: b mj_fault_report\n\t"
                   ".ltorg");
}

/* Configurable fault status register, Armv7-M Architecture Reference Manual B3.2.15. */
static const struct {
    uint8_t bit;
    const char *reason;
} reasons[] = {
    {0, "instruction fetch from a forbidden region"},
    {1, "access to a forbidden region"},
    {4, "stacking ran out of the stack's memory"},
    {8, "instruction fetch from an address without memory"},
    {9, "access to an address without memory"},
    {10, "late write to an address without memory"},
    {12, "stacking ran out of the stack's memory"},
    {16, "undefined instruction"},
    {17, "jump to an even address"},
    {18, "broken return from an exception"},
    {19, "floating point without the unit"},
    {24, "unaligned access"},
    {25, "division by zero"},
};

__attribute__((noreturn, used)) void mj_fault_report(const uint32_t *frame, uint32_t exception)
{
    const uint32_t status = CORE_SCB_CFSR;
    mj_print("\r\nfault: exception ");
    mj_print_unsigned(exception & 0x1FFu);
    for (uint32_t index = 0; index < sizeof reasons / sizeof reasons[0]; index++) {
        if (status >> reasons[index].bit & 1u) {
            mj_print(", ");
            mj_print(reasons[index].reason);
        }
    }
    mj_print("\r\nfault: cfsr 0x");
    mj_print_hex(status, 8);
    mj_print(" hfsr 0x");
    mj_print_hex(CORE_SCB_HFSR, 8);
    if (status >> 15 & 1u) {
        mj_print(" address 0x");
        mj_print_hex(CORE_SCB_BFAR, 8);
    } else if (status >> 7 & 1u) {
        mj_print(" address 0x");
        mj_print_hex(CORE_SCB_MMFAR, 8);
    }
    if (frame >= mj_stack_limit && frame + 8 <= mj_stack_top) {
        mj_print(" pc 0x");
        mj_print_hex(frame[6], 8);
        mj_print(" lr 0x");
        mj_print_hex(frame[5], 8);
    } else {
        mj_print(" stack overflow");
    }
    mj_print("\r\n");
    mj_mail.status = MJ_MAIL_FAILED;
    mj_halt();
    for (;;) {
    }
}
