/* The frequent double-precision instructions of the Cortex-M7 with the host's own arithmetic: called by the emulator
 * library for instructions it takes for undefined. Whatever needs care is left to Python (returns 0): other rounding
 * modes than to nearest, NaN, infinities, subnormal results, the first inexact result (it sets a sticky flag), rare
 * instructions. Encodings: Armv7-M Architecture Reference Manual, A6.4. */
#include <stdint.h>
#include <string.h>
#pragma STDC FP_CONTRACT OFF

/* FPSCR: rounding mode, flush to zero, default NaN; inexact. CONTROL: floating point in use. */
enum { PARTICULAR = 3 << 22 | 1 << 24 | 1 << 25, INEXACT = 16, IN_USE = 4, THUMB = 1 << 24 };

typedef struct {
    int (*read_register)(void *emulator, int number, void *value);
    int (*write_register)(void *emulator, int number, const void *value);
    int (*read_memory)(void *emulator, uint64_t address, void *bytes, uint64_t size);
    uint64_t enabled, pc, xpsr, fpscr, control, doubles, singles; /* numbers of registers; the first of each kind */
} context;

int mj_hook_double(void *emulator, void *user);
uint64_t mj_double_size(void);

static uint64_t bits_of(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static double get(const context *c, void *emulator, uint32_t number)
{
    double value = 0;
    c->read_register(emulator, (int)(c->doubles + number), &value);
    return value;
}

static uint32_t get_single(const context *c, void *emulator, uint32_t number)
{
    uint32_t value = 0;
    c->read_register(emulator, (int)(c->singles + number), &value);
    return value;
}

/* Zero, or a normal number far from the limits: no operation on two of them overflows or underflows. */
static int is_moderate(double value)
{
    const uint32_t exponent = bits_of(value) >> 52 & 0x7FF;
    return value == 0 || (exponent > 1023 - 300 && exponent < 1023 + 300);
}

static double sum(double a, double b, double *rest)
{
    const double total = a + b, part = total - a;
    *rest = (a - (total - part)) + (b - part);
    return total;
}

static double product(double a, double b, double *rest)
{
    const double split = 134217729.0, scaled_a = split * a, scaled_b = split * b;
    const double high_a = scaled_a - (scaled_a - a), high_b = scaled_b - (scaled_b - b);
    const double low_a = a - high_a, low_b = b - high_b, total = a * b;
    *rest = low_a * low_b - (((total - high_a * high_b) - low_a * high_b) - high_a * low_b);
    return total;
}

/* Rounded once: Boldo and Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to
 * odd", IEEE Transactions on Computers 57(4), 2008. */
static double fused(double addend, double a, double b)
{
    double low, small, smaller, rest;
    const double high = product(a, b, &low);
    const double large = sum(addend, low, &small);
    const double total = sum(high, large, &smaller);
    double odd = sum(small, smaller, &rest);
    uint64_t bits = bits_of(odd);
    if (rest != 0 && !(bits & 1)) {
        bits += (rest > 0) == (odd > 0) ? 1u : ~0ull;
        memcpy(&odd, &bits, sizeof odd);
    }
    return total + odd;
}

/* One of the operations with three registers; 0 when the result needs care. */
static int compute(uint32_t kind, int low, double to, double a, double b, double *result)
{
    const double signed_product = low ? -(a * b) : a * b;
    if (!is_moderate(to) || !is_moderate(a) || !is_moderate(b)) {
        return 0;
    }
    switch (kind) {
    case 0:
        *result = to + signed_product;
        break;
    case 1:
        *result = -to + signed_product;
        break;
    case 2:
        *result = signed_product;
        return 1;
    case 3:
        *result = low ? a - b : a + b;
        return 1;
    case 4:
        *result = a / b;
        return b != 0;
    case 5:
    case 6:
        *result = fused(kind == 5 ? -to : to, low ? -a : a, b);
        /* A product or a sum that vanishes: its sign, and digits below the smallest number, need care. */
        return a != 0 && b != 0 && to != 0 && *result != 0;
    default:
        return 0;
    }
    return 1;
}

static int convert_and_compare(const context *c, void *emulator, uint32_t first, uint32_t second, uint32_t *status)
{
    const uint32_t opcode = first & 15, right = second & 15, to = second >> 12 & 15, high = second >> 7 & 1;
    const uint32_t to_single = to << 1 | (first >> 6 & 1), from_single = right << 1 | (second >> 5 & 1);
    if (opcode == 8 && !(first >> 6 & 1)) {
        const uint32_t word = get_single(c, emulator, from_single);
        const double value = high ? (double)(int32_t)word : (double)word;
        c->write_register(emulator, (int)(c->doubles + to), &value);
        return 1;
    }
    const double value = get(c, emulator, right);
    if (second >> 5 & 1 || !is_moderate(value)) {
        return 0;
    }
    if ((opcode == 12 || opcode == 13) && high && (*status & INEXACT)) {
        const int is_signed = opcode & 1;
        if (is_signed ? value <= -2147483649.0 || value >= 2147483648.0 : value <= -1.0 || value >= 4294967296.0) {
            return 0;
        }
        const uint32_t word = is_signed ? (uint32_t)(int32_t)value : (uint32_t)value;
        c->write_register(emulator, (int)(c->singles + to_single), &word);
        return 1;
    }
    if (first >> 6 & 1) {
        return 0;
    }
    if (opcode == 4 || opcode == 5) {
        const double left = get(c, emulator, to), other = opcode == 5 ? 0.0 : value;
        if (!is_moderate(left)) {
            return 0;
        }
        *status = (*status & 0x0FFFFFFFu) | (left == other ? 6u : left < other ? 8u : 2u) << 28;
        c->write_register(emulator, (int)c->fpscr, status);
        return 1;
    }
    if (opcode > 1 || (opcode == 1 && high)) {
        return 0;
    }
    const double result = opcode == 1 ? -value : high && value < 0 ? -value : high && value == 0 ? 0.0 : value;
    c->write_register(emulator, (int)(c->doubles + to), &result);
    return 1;
}

static int execute(const context *c, void *emulator, uint32_t first, uint32_t second)
{
    uint32_t status = 0;
    c->read_register(emulator, (int)c->fpscr, &status);
    if ((status & PARTICULAR) || (first & 0xFF00) != 0xEE00 || (second & 0x0F10) != 0x0B00) {
        return 0;
    }
    const uint32_t kind = (first >> 5 & 4) | (first >> 4 & 3);
    const int low = second >> 6 & 1;
    if (kind == 7) {
        return low && convert_and_compare(c, emulator, first, second, &status);
    }
    if ((first >> 6 & 1) || (second & 0xA0) || !(status & INEXACT) || (kind == 4 && low)) {
        return 0;
    }
    const uint32_t to = second >> 12 & 15;
    double result = 0;
    if (!compute(kind, low, get(c, emulator, to), get(c, emulator, first & 15), get(c, emulator, second & 15), &result)) {
        return 0;
    }
    c->write_register(emulator, (int)(c->doubles + to), &result);
    return 1;
}

int mj_hook_double(void *emulator, void *user)
{
    const context *c = user;
    uint32_t pc = 0, xpsr = 0, control = 0;
    uint16_t code[2] = {0, 0};
    c->read_register(emulator, (int)c->pc, &pc);
    c->read_register(emulator, (int)c->xpsr, &xpsr);
    c->read_register(emulator, (int)c->control, &control);
    if (!c->enabled || !(xpsr & THUMB) || !(control & IN_USE) ||
        c->read_memory(emulator, pc & ~1u, code, sizeof code) != 0 || !execute(c, emulator, code[0], code[1])) {
        return 0;
    }
    uint32_t state = (xpsr >> 8 & 0xFC) | (xpsr >> 25 & 3);
    if (state != 0) {
        state = state & 7 ? (state & 0xE0) | (state << 1 & 0x1F) : 0;
        xpsr = (xpsr & ~0x0600FC00u) | (state & 0xFC) << 8 | (state & 3) << 25;
        c->write_register(emulator, (int)c->xpsr, &xpsr);
    }
    pc = (pc + 4) | 1;
    c->write_register(emulator, (int)c->pc, &pc);
    return 1;
}

uint64_t mj_double_size(void)
{
    return sizeof(context);
}
