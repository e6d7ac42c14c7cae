"""Small firmwares of their own, with nothing of this project's start-up code in them: built by the cross-compiler."""

from __future__ import annotations

from millijoule.boards import board_registers, load_board
from millijoule.build import Image, build_elf
from millijoule.emulate.peripherals._facts import FAMILIES, Instance

HEAD = """
#include <stdint.h>
#define AT(address) (*(volatile uint32_t *)(address))
#define USART_CR1 AT(USART + 0x00u)
#define USART_BRR AT(USART + 0x0Cu)
#define USART_ISR AT(USART + 0x1Cu)
#define USART_ICR AT(USART + 0x20u)
#define USART_RDR AT(USART + 0x24u)
#define USART_TDR AT(USART + 0x28u)
extern uint32_t mj_stack_top[];
void Reset_Handler(void);
__attribute__((weak)) void Serial_Handler(void); /* zero in the vector table when there is none */
__attribute__((weak)) void Tick_Handler(void);
__attribute__((weak)) void Timer_Handler(void);
void Fault_Handler(void);
void Fault_Handler(void) { for (;;) {} }
typedef void (*vector)(void);
__attribute__((section(".isr_vector"), used)) const vector vectors[16 + 160] = {
    (vector)(uintptr_t)mj_stack_top, Reset_Handler, Fault_Handler, Fault_Handler, Fault_Handler, Fault_Handler,
    Fault_Handler, [15] = Tick_Handler, [16 + SERIAL_IRQ] = Serial_Handler, [16 + TIMER_IRQ] = Timer_Handler,
};
static void send(uint32_t byte)
{
    while (!(USART_ISR & 0x80u)) {
    }
    USART_TDR = byte;
}
static void say(const char *text)
{
    while (*text != 0) {
        send((uint8_t)*text++);
    }
}
static void line_on(uint32_t interrupts)
{
    AT(SERIAL_ENABLE) |= SERIAL_ENABLE_BIT;
    USART_BRR = SERIAL_DIVIDER;
    USART_CR1 = 0x0Du | interrupts;
}
"""

POLLED_ECHO = """
void Reset_Handler(void)
{
    line_on(0);
    say("ready\\r\\n");
    for (;;) {
        while (!(USART_ISR & 0x20u)) {
        }
        const uint32_t byte = USART_RDR;
        send(byte >= 'a' && byte <= 'z' ? byte - 32u : byte);
    }
}
"""

# Receives in the interrupt, sends in the main program, sleeps in between.
INTERRUPT_ECHO = """
static volatile uint8_t ring[16];
static volatile uint32_t head, tail, lost;
void Serial_Handler(void)
{
    const uint32_t byte = USART_RDR;
    if (head - tail < sizeof ring) {
        ring[head % sizeof ring] = (uint8_t)byte;
        head = head + 1u;
    } else {
        lost = lost + 1u;
    }
}
void Reset_Handler(void)
{
    head = tail = lost = 0;
    line_on(0x20u);
    AT(0xE000E100u + 4u * (SERIAL_IRQ / 32u)) = 1u << (SERIAL_IRQ % 32u); /* NVIC_ISER */
    say("ready\\r\\n");
    for (;;) {
        __asm volatile("cpsid i" ::: "memory");
        if (head == tail) {
            __asm volatile("wfi" ::: "memory");
        }
        __asm volatile("cpsie i\\n\\tisb" ::: "memory");
        while (tail != head) {
            const uint32_t byte = ring[tail % sizeof ring];
            tail = tail + 1u;
            send(byte >= 'a' && byte <= 'z' ? byte - 32u : byte);
        }
        if (lost != 0) {
            say("LOST");
            lost = 0;
        }
    }
}
"""

# A tick every 1000 timer cycles; says "tick" ten times, then stops the core in an endless loop.
TIMER_TICKS = """
static volatile uint32_t ticks;
void Timer_Handler(void)
{
    AT(TIMER + 0x10u) = 0; /* SR */
    ticks = ticks + 1u;
}
void Reset_Handler(void)
{
    uint32_t said = 0;
    ticks = 0;
    line_on(0);
    AT(TIMER_ENABLE) |= TIMER_ENABLE_BIT;
    AT(TIMER + 0x28u) = 9u;  /* PSC */
    AT(TIMER + 0x2Cu) = 99u; /* ARR */
    AT(TIMER + 0x14u) = 1u;  /* EGR */
    AT(TIMER + 0x10u) = 0;
    AT(TIMER + 0x0Cu) = 1u;  /* DIER */
    AT(TIMER + 0x00u) = 1u;  /* CR1 */
    AT(0xE000E100u + 4u * (TIMER_IRQ / 32u)) = 1u << (TIMER_IRQ % 32u);
    while (said < 10u) {
        __asm volatile("wfi" ::: "memory");
        while (said < ticks) {
            said++;
            say("tick ");
        }
    }
    say("done\\r\\n");
    for (;;) {
        __asm volatile("wfi" ::: "memory");
    }
}
"""

READS_NOTHING = """
void Reset_Handler(void)
{
    line_on(0);
    say("before\\r\\n");
    AT(0x70000000u) = 1u;
    for (;;) {
    }
}
"""


def instance(board: str, name: str) -> Instance:
    """The facts of one peripheral."""
    family = FAMILIES[board_registers(load_board(board)).bases["RCC"]]
    return next(item for item in family.instances if item.name == name)


def build(source: str, board: str, *, port: str | None = None, divider: int = 417) -> Image:
    """Links one of the sources above for a board; its serial port is the board's console or `port`."""
    target = load_board(board)
    registers = {
        f"RCC_{register}": (offset, fields)
        for register, (offset, fields) in FAMILIES[board_registers(target).bases["RCC"]].layouts["RCC"].items()
    }
    serial, timer = instance(board, port or target.console.peripheral), instance(board, "TIM6")
    defines = {"USART": f"{serial.base:#x}u", "SERIAL_IRQ": f"{serial.interrupt}u", "SERIAL_DIVIDER": f"{divider}u"}
    defines |= {"TIMER": f"{timer.base:#x}u", "TIMER_IRQ": f"{timer.interrupt}u"}
    for name, item in (("SERIAL", serial), ("TIMER", timer)):
        offset, fields = registers[f"RCC_{item.enable[0]}"]
        defines[f"{name}_ENABLE"] = f"{board_registers(target).bases['RCC'] + offset:#x}u"
        defines[f"{name}_ENABLE_BIT"] = f"{1 << fields[item.enable[1]][0]:#x}u"
    return build_elf({"main.c": HEAD + source}, target, defines=defines)


# Writes some of a buffer and reads all of it: in halves, bytes, words, several registers at once and conditionally.
UNINITIALISED = """
__attribute__((used)) uint32_t buffer[16]; /* in .bss, which this start-up does not clear */
__attribute__((noinline, used)) uint32_t sum_words(const volatile uint32_t *from, uint32_t count)
{
    uint32_t total = 0;
    for (uint32_t at = 0; at < count; at++) {
        total += from[at];
    }
    return total;
}
__attribute__((noinline, used)) uint32_t read_byte(const volatile uint8_t *from)
{
    return *from;
}
__attribute__((noinline, used, naked)) void copy_four(void *to, const void *from)
{
    __asm volatile("ldmia r1, {r2, r3, r12}\\n\\tstmia r0, {r2, r3, r12}\\n\\tbx lr");
}
__attribute__((noinline, used, naked)) void read_if(const void *from, int yes)
{
    __asm volatile("cmp r1, #0\\n\\tit ne\\n\\tldrne r0, [r0]\\n\\tbx lr");
}
__attribute__((noinline, used)) void clean(void) { __asm volatile("" ::: "memory"); }
__attribute__((noinline, used)) void done(void) { __asm volatile("" ::: "memory"); }
void Reset_Handler(void)
{
    for (uint32_t at = 0; at < 8; at++) {
        ((volatile uint32_t *)buffer)[at] = at;
    }
    ((volatile uint8_t *)buffer)[33] = 1;
    sum_words(buffer, 8);
    read_byte((const volatile uint8_t *)buffer + 33);
    read_if(buffer + 12, 0);
    clean();
    sum_words(buffer, 10);
    read_byte((const volatile uint8_t *)buffer + 34);
    copy_four(buffer + 12, buffer + 6);
    read_if(buffer + 15, 1);
    done();
    for (;;) {
    }
}
"""

# Words and halfwords in RAM may lie anywhere; what else is done here raises a fault on the chip.
MISALIGNED = """
__attribute__((used, aligned(8))) uint32_t buffer[16];
#define NAKED __attribute__((noinline, used, naked))
NAKED uint32_t read_word(const void *from) { __asm volatile("ldr r0, [r0]\\n\\tbx lr"); }
NAKED uint32_t read_double(const void *from) { __asm volatile("ldrd r2, r3, [r0, #4]\\n\\tbx lr"); }
NAKED uint32_t read_many(const void *from) { __asm volatile("ldmia r0, {r2, r3}\\n\\tbx lr"); }
NAKED uint32_t write_float(const void *from) { __asm volatile("vstr s0, [r0]\\n\\tbx lr"); }
NAKED uint32_t touch_device(const void *from) { __asm volatile("ldrh r0, [r0]\\n\\tbx lr"); }
__attribute__((noinline, used)) void done(void) { __asm volatile("" ::: "memory"); }
void Reset_Handler(void)
{
    AT(0xE000ED88u) |= 0xF00000u; /* the floating point unit */
    __asm volatile("dsb\\n\\tisb" ::: "memory");
    for (uint32_t at = 0; at < 16; at++) {
        ((volatile uint32_t *)buffer)[at] = at;
    }
    const uint8_t *bytes = (const uint8_t *)buffer;
    read_word(bytes + 1);
    read_double(bytes + 4);
    read_many(bytes + 4);
    write_float(bytes + 4);
    touch_device((const void *)(USART + 2u));
    read_double(bytes + 2);
    read_many(bytes + 2);
    write_float(bytes + 3);
    touch_device((const void *)(USART + 1u));
    done();
    for (;;) {
    }
}
"""
