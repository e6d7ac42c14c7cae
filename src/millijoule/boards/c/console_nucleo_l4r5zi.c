/* NUCLEO-L4R5ZI: clocks of LPUART1, which counts HSI16, and the supply of its pins: PG2..PG15 are cut off after reset
 * (VDDIO2, reference manual of the family, "Independent I/O supply rail"). */
#include "mj_board.h"
#include "registers_stm32l4r9i.h"
#include "registers_common.h"

enum { LPUART_CLOCK_HSI16 = 2 };

void mj_clock_console(void)
{
    MJ_SET(RCC_APB1ENR1, RCC_APB1ENR1_PWREN, 1);
    MJ_SET(PWR_CR2, PWR_CR2_IOSV, 1);
    MJ_SET(RCC_CCIPR, RCC_CCIPR_LPUART1SEL, LPUART_CLOCK_HSI16);
    RCC_AHB2ENR |= MJ_BOARD_PORTS; /* port A is bit 0 */
    MJ_SET(RCC_APB1ENR2, RCC_APB1ENR2_LPUART1EN, 1);
    (void)RCC_APB1ENR2; /* the clock is running after the read back */
}
