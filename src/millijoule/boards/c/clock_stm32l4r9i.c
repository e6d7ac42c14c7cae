/* STM32L4R9I: HSI16 through the PLL, range 1 boost, prefetch and both caches. The build defines the numbers (MJ_CLOCK_...)
 * from [clock] of the board's description: 120 MHz = 16 MHz / 2 x 30 / 2 with 5 wait states.
 * Order: voltage first, then wait states, then the faster clock; the bus prescaler is halved while the PLL takes over,
 * because above 80 MHz the frequency must rise in two steps (reference manual of the family, "Range 1 boost"). */
#include "mj_board.h"
#include "registers_stm32l4r9i.h"
#include "registers_common.h"

enum { PLL_SOURCE_HSI16 = 2, SYSTEM_CLOCK_PLL = 3, AHB_HALVED = 8 };

uint32_t mj_clock_start(void)
{
    MJ_SET(RCC_APB1ENR1, RCC_APB1ENR1_PWREN, 1);
    MJ_SET(PWR_CR1, PWR_CR1_VOS, MJ_CLOCK_VOLTAGE_SCALE);
    while (MJ_GET(PWR_SR2, PWR_SR2_VOSF)) {
    }
    MJ_SET(PWR_CR5, PWR_CR5_R1MODE, 0); /* 0 is boost */

    /* Both caches are emptied while off, then turned on together with prefetch. */
    FLASH_ACR &= ~(MJ_MASK(FLASH_ACR_ICEN) | MJ_MASK(FLASH_ACR_DCEN));
    FLASH_ACR |= MJ_MASK(FLASH_ACR_ICRST) | MJ_MASK(FLASH_ACR_DCRST);
    FLASH_ACR &= ~(MJ_MASK(FLASH_ACR_ICRST) | MJ_MASK(FLASH_ACR_DCRST));
    FLASH_ACR |= MJ_MASK(FLASH_ACR_PRFTEN) | MJ_MASK(FLASH_ACR_ICEN) | MJ_MASK(FLASH_ACR_DCEN);
    MJ_SET(FLASH_ACR, FLASH_ACR_LATENCY, MJ_BOARD_FLASH_WAIT_STATES);
    while (MJ_GET(FLASH_ACR, FLASH_ACR_LATENCY) != MJ_BOARD_FLASH_WAIT_STATES) {
    }

    MJ_SET(RCC_CR, RCC_CR_HSION, 1);
    while (!MJ_GET(RCC_CR, RCC_CR_HSIRDY)) {
    }
    MJ_SET(RCC_CR, RCC_CR_PLLON, 0);
    while (MJ_GET(RCC_CR, RCC_CR_PLLRDY)) {
    }
    RCC_PLLCFGR = MJ_VALUE(RCC_PLLCFGR_PLLSRC, PLL_SOURCE_HSI16) | MJ_VALUE(RCC_PLLCFGR_PLLM, MJ_CLOCK_INPUT_DIVIDER - 1u) |
                  MJ_VALUE(RCC_PLLCFGR_PLLN, MJ_CLOCK_MULTIPLIER) |
                  MJ_VALUE(RCC_PLLCFGR_PLLR, MJ_CLOCK_OUTPUT_DIVIDER / 2u - 1u) | /* 2, 4, 6, 8 */
                  MJ_MASK(RCC_PLLCFGR_PLLREN);
    MJ_SET(RCC_CR, RCC_CR_PLLON, 1);
    while (!MJ_GET(RCC_CR, RCC_CR_PLLRDY)) {
    }
    MJ_SET(RCC_CFGR, RCC_CFGR_PPRE1, MJ_CLOCK_APB1_BITS);
    MJ_SET(RCC_CFGR, RCC_CFGR_PPRE2, MJ_CLOCK_APB2_BITS);
    MJ_SET(RCC_CFGR, RCC_CFGR_HPRE, AHB_HALVED);
    MJ_SET(RCC_CFGR, RCC_CFGR_SW, SYSTEM_CLOCK_PLL);
    while (MJ_GET(RCC_CFGR, RCC_CFGR_SWS) != SYSTEM_CLOCK_PLL) {
    }
    for (volatile int wait = 0; wait < 64; wait++) { /* at least 1 us at half speed */
    }
    MJ_SET(RCC_CFGR, RCC_CFGR_HPRE, MJ_CLOCK_AHB_BITS);
    return MJ_CONSOLE_CLOCK_HZ;
}
