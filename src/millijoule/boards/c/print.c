/* Text and numbers on the console, without a C library. */
#include "mj_board.h"

void mj_print(const char *text)
{
    while (*text != '\0') {
        mj_console_put(*text++);
    }
}

void mj_print_unsigned(uint32_t value)
{
    char digits[10];
    int count = 0;
    do {
        digits[count++] = (char)('0' + value % 10u);
        value /= 10u;
    } while (value != 0);
    while (count > 0) {
        mj_console_put(digits[--count]);
    }
}

void mj_print_unsigned64(uint64_t value)
{
    if (value > 0xFFFFFFFFu) {
        const uint64_t billions = value / 1000000000u;
        uint32_t rest = (uint32_t)(value - billions * 1000000000u);
        mj_print_unsigned64(billions);
        for (uint32_t place = 100000000u; place > 0; place /= 10u) {
            mj_console_put((char)('0' + rest / place));
            rest %= place;
        }
        return;
    }
    mj_print_unsigned((uint32_t)value);
}

void mj_print_integer(int32_t value)
{
    if (value < 0) {
        mj_console_put('-');
    }
    mj_print_unsigned(value < 0 ? 0u - (uint32_t)value : (uint32_t)value);
}

void mj_print_hex(uint32_t value, int digits)
{
    for (int digit = digits - 1; digit >= 0; digit--) {
        mj_console_put("0123456789abcdef"[value >> (4 * digit) & 15u]);
    }
}

void mj_print_float(float value, int decimals)
{
    static const uint32_t powers[] = {1, 10, 100, 1000, 10000, 100000, 1000000};
    if (value != value) {
        mj_print("nan");
        return;
    }
    if (value < 0.0f) {
        mj_console_put('-');
        value = -value;
    }
    if (value >= 4294967040.0f) {
        mj_print(value > 3.4028235e38f ? "inf" : "over4e9");
        return;
    }
    decimals = decimals < 0 ? 0 : decimals > 6 ? 6 : decimals;
    uint32_t whole = (uint32_t)value;
    uint32_t fraction = (uint32_t)((value - (float)whole) * (float)powers[decimals] + 0.5f);
    if (fraction >= powers[decimals]) {
        fraction -= powers[decimals];
        whole++;
    }
    mj_print_unsigned(whole);
    if (decimals > 0) {
        mj_console_put('.');
        for (int digit = decimals - 1; digit >= 0; digit--) {
            mj_console_put((char)('0' + fraction / powers[digit] % 10u));
        }
    }
}
