/* The console: 8 data bits, no parity, one stop bit, polled. */
#include "mj_board.h"
#include MJ_BOARD_REGISTERS
#include "registers_common.h"

#define CONSOLE MJ_JOIN(MJ_CONSOLE, _BASE)

static uint32_t clock_hz; /* of the USART; 0 until it runs */

/* Characters that arrived while inferences ran. */
enum { WAITING_BYTES = 128 };
static char waiting[WAITING_BYTES];
static uint32_t waiting_first, waiting_count;
static int lost; /* more came than there is room for */

static void route(uint32_t port, uint32_t pin, uint32_t alternate)
{
    const uint32_t twice = 2u * pin, nibble = 4u * (pin & 7u);
    if (pin < 8u) {
        GPIO_AFR_LOW(port) = (GPIO_AFR_LOW(port) & ~(0xFu << nibble)) | alternate << nibble;
    } else {
        GPIO_AFR_HIGH(port) = (GPIO_AFR_HIGH(port) & ~(0xFu << nibble)) | alternate << nibble;
    }
    GPIO_OSPEEDR(port) = (GPIO_OSPEEDR(port) & ~(3u << twice)) | 1u << twice; /* medium */
    GPIO_PUPDR(port) = (GPIO_PUPDR(port) & ~(3u << twice)) | 1u << twice;     /* pull-up: an open line reads idle */
    GPIO_MODER(port) = (GPIO_MODER(port) & ~(3u << twice)) | 2u << twice;     /* alternate function */
}

/* Writes the divider of a stopped USART. A USART divides its clock by BRR (16 bits), a low-power UART by BRR / 256 (20
 * bits, at least 0x300) behind a prescaler (reference manuals of both families, "baud rate generation"). */
static void set_divider(uint32_t baud)
{
#if MJ_CONSOLE_IS_LOW_POWER
    static const uint16_t prescalers[] = {1, 2, 4, 6, 8, 10, 12, 16, 32, 64, 128, 256};
    for (uint32_t index = 0; index < sizeof prescalers / sizeof prescalers[0]; index++) {
        const uint32_t slow = baud * prescalers[index];
        const uint64_t divider = ((uint64_t)clock_hz * 256u + slow / 2u) / slow;
        if (divider < 0x100000u) {
            USART_PRESC(CONSOLE) = MJ_VALUE(USART_PRESC_PRESCALER, index);
            USART_BRR(CONSOLE) = (uint32_t)divider;
            return;
        }
    }
#else
    USART_BRR(CONSOLE) = (clock_hz + baud / 2u) / baud;
#endif
}

static void run(uint32_t baud)
{
    USART_CR1(CONSOLE) = 0;
    USART_CR3(CONSOLE) = MJ_MASK(USART_CR3_OVRDIS); /* a character lost must not block the line */
    set_divider(baud);
    USART_CR1(CONSOLE) = MJ_MASK(USART_CR1_FIFOEN) | MJ_MASK(USART_CR1_TE) | MJ_MASK(USART_CR1_RE);
    USART_CR1(CONSOLE) |= MJ_MASK(USART_CR1_UE);
    while (!MJ_GET(USART_ISR(CONSOLE), USART_ISR_TEACK) || !MJ_GET(USART_ISR(CONSOLE), USART_ISR_REACK)) {
    }
}

void mj_console_start(uint32_t kernel_hz, uint32_t baud)
{
    mj_clock_console();
    route(MJ_JOIN(MJ_JOIN(GPIO, MJ_CONSOLE_TX_PORT), _BASE), MJ_CONSOLE_TX_PIN, MJ_CONSOLE_TX_ALTERNATE);
    route(MJ_JOIN(MJ_JOIN(GPIO, MJ_CONSOLE_RX_PORT), _BASE), MJ_CONSOLE_RX_PIN, MJ_CONSOLE_RX_ALTERNATE);
    clock_hz = kernel_hz;
    run(baud);
}

void mj_console_baud(uint32_t baud)
{
    mj_console_flush();
    run(baud);
}

void mj_console_flush(void)
{
    while (clock_hz != 0 && !MJ_GET(USART_ISR(CONSOLE), USART_ISR_TC)) {
    }
}

void mj_console_put(char character)
{
    if (clock_hz == 0) {
        return; /* a fault before the console runs: nothing to say it with */
    }
    while (!MJ_GET(USART_ISR(CONSOLE), USART_ISR_TXE_TXFNF)) {
    }
    USART_TDR(CONSOLE) = (uint8_t)character;
}

static int received(void)
{
    return (int)MJ_GET(USART_ISR(CONSOLE), USART_ISR_RXNE_RXFNE);
}

static char receive(void)
{
    return (char)(USART_RDR(CONSOLE) & 0xFFu);
}

int mj_console_ready(void)
{
    return waiting_count > 0 || received();
}

char mj_console_get(void)
{
    if (waiting_count > 0) {
        const char character = waiting[waiting_first];
        waiting_first = (waiting_first + 1u) % WAITING_BYTES;
        waiting_count--;
        return character;
    }
    while (!received()) {
    }
    return receive();
}

int mj_console_interrupted(void)
{
    while (received()) {
        const char character = receive();
        if (character == MJ_INTERRUPT) {
            waiting_count = 0;
            return 1;
        }
        if (lost || waiting_count == WAITING_BYTES) {
            lost = 1;
            waiting_count = 0; /* a command that lacks its end must not meet the next one */
        } else {
            waiting[(waiting_first + waiting_count) % WAITING_BYTES] = character;
            waiting_count++;
        }
    }
    return 0;
}

int mj_console_lost(void)
{
    const int some = lost;
    lost = 0;
    return some;
}
