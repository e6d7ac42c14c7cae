/* STM32H7B3I: clocks of a console on USART1 (which counts APB2), USART2 or USART3 (which count APB1). */
#include "mj_board.h"
#include "registers_stm32h7b3i.h"
#include "registers_common.h"

#define GATE_USART1 RCC_APB2ENR
#define GATE_USART2 RCC_APB1LENR
#define GATE_USART3 RCC_APB1LENR
#define BIT_USART1 RCC_APB2ENR_USART1EN
#define BIT_USART2 RCC_APB1LENR_USART2EN
#define BIT_USART3 RCC_APB1LENR_USART3EN
#define GATE MJ_JOIN(GATE_, MJ_CONSOLE)

void mj_clock_console(void)
{
    RCC_AHB4ENR |= MJ_BOARD_PORTS; /* port A is bit 0 */
    GATE |= MJ_MASK(MJ_JOIN(BIT_, MJ_CONSOLE));
    (void)GATE; /* the clock is running after the read back */
}
