/* STM32L4R9I: clocks of a console on USART2 or USART3, which count their bus clock (APB1). */
#include "mj_board.h"
#include "registers_stm32l4r9i.h"
#include "registers_common.h"

void mj_clock_console(void)
{
    RCC_AHB2ENR |= MJ_BOARD_PORTS; /* port A is bit 0 */
    RCC_APB1ENR1 |= MJ_MASK(MJ_JOIN(RCC_APB1ENR1_, MJ_JOIN(MJ_CONSOLE, EN)));
    (void)RCC_APB1ENR1; /* the clock is running after the read back */
}
