/* Peripherals that are alike on both chips: offsets from the peripheral's base (facts of both device headers). */
#ifndef MJ_REGISTERS_COMMON_H
#define MJ_REGISTERS_COMMON_H

#define GPIO_MODER(base) MJ_REGISTER(base, 0x00u)
#define GPIO_OSPEEDR(base) MJ_REGISTER(base, 0x08u)
#define GPIO_PUPDR(base) MJ_REGISTER(base, 0x0Cu)
#define GPIO_BSRR(base) MJ_REGISTER(base, 0x18u) /* bit n sets pin n, bit 16 + n clears it */
#define GPIO_AFR_LOW(base) MJ_REGISTER(base, 0x20u)
#define GPIO_AFR_HIGH(base) MJ_REGISTER(base, 0x24u)

#define USART_CR1(base) MJ_REGISTER(base, 0x00u)
#define USART_CR1_UE 0, 1
#define USART_CR1_RE 2, 1
#define USART_CR1_TE 3, 1
#define USART_CR1_FIFOEN 29, 1
#define USART_CR3(base) MJ_REGISTER(base, 0x08u)
#define USART_CR3_OVRDIS 12, 1
#define USART_BRR(base) MJ_REGISTER(base, 0x0Cu)
#define USART_ISR(base) MJ_REGISTER(base, 0x1Cu)
#define USART_ISR_RXNE_RXFNE 5, 1
#define USART_ISR_TC 6, 1
#define USART_ISR_TXE_TXFNF 7, 1
#define USART_ISR_TEACK 21, 1
#define USART_ISR_REACK 22, 1
#define USART_RDR(base) MJ_REGISTER(base, 0x24u)
#define USART_TDR(base) MJ_REGISTER(base, 0x28u)
#define USART_PRESC(base) MJ_REGISTER(base, 0x2Cu)
#define USART_PRESC_PRESCALER 0, 4

#endif
