/* STM32H7B3I: clocks of a console on USART2 or USART3, which count their bus clock (APB1). */
#include "mj_board.h"
#include "registers_stm32h7b3i.h"
#include "registers_common.h"

void mj_clock_console(void)
{
    RCC_AHB4ENR |= MJ_BOARD_PORTS; /* port A is bit 0 */
    RCC_APB1LENR |= MJ_MASK(MJ_JOIN(RCC_APB1LENR_, MJ_JOIN(MJ_CONSOLE, EN)));
    (void)RCC_APB1LENR; /* the clock is running after the read back */
}
