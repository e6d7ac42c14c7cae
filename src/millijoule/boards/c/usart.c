/* The console: 8 data bits, no parity, one stop bit, polled. */
#include "mj_board.h"
#include MJ_BOARD_REGISTERS
#include "registers_common.h"

#define CONSOLE MJ_JOIN(MJ_CONSOLE, _BASE)

static int started;

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

void mj_console_start(uint32_t kernel_hz)
{
    mj_clock_console();
    route(MJ_JOIN(MJ_JOIN(GPIO, MJ_CONSOLE_TX_PORT), _BASE), MJ_CONSOLE_TX_PIN, MJ_CONSOLE_TX_ALTERNATE);
    route(MJ_JOIN(MJ_JOIN(GPIO, MJ_CONSOLE_RX_PORT), _BASE), MJ_CONSOLE_RX_PIN, MJ_CONSOLE_RX_ALTERNATE);
    USART_CR1(CONSOLE) = 0;
    USART_CR3(CONSOLE) = MJ_MASK(USART_CR3_OVRDIS); /* a character lost must not block the line */
    USART_BRR(CONSOLE) = (kernel_hz + MJ_CONSOLE_BAUD / 2u) / MJ_CONSOLE_BAUD;
    USART_CR1(CONSOLE) = MJ_MASK(USART_CR1_FIFOEN) | MJ_MASK(USART_CR1_TE) | MJ_MASK(USART_CR1_RE);
    USART_CR1(CONSOLE) |= MJ_MASK(USART_CR1_UE);
    while (!MJ_GET(USART_ISR(CONSOLE), USART_ISR_TEACK) || !MJ_GET(USART_ISR(CONSOLE), USART_ISR_REACK)) {
    }
    started = 1;
}

void mj_console_put(char character)
{
    if (!started) {
        return; /* a fault before the console runs: nothing to say it with */
    }
    while (!MJ_GET(USART_ISR(CONSOLE), USART_ISR_TXE_TXFNF)) {
    }
    USART_TDR(CONSOLE) = (uint8_t)character;
}

int mj_console_ready(void)
{
    return (int)MJ_GET(USART_ISR(CONSOLE), USART_ISR_RXNE_RXFNE);
}

char mj_console_get(void)
{
    while (!mj_console_ready()) {
    }
    return (char)(USART_RDR(CONSOLE) & 0xFFu);
}
