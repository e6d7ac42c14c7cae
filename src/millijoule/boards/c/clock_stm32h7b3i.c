/* STM32H7B3I: HSI64 through PLL1, instruction and data cache on. The build defines the numbers (MJ_CLOCK_...) from [clock]
 * of the board's description: 280 MHz = 64 MHz / 4 x 35 / 2 at VOS0 with 6 wait states.
 * Order: supply (may be written once after power-on), voltage, wait states, PLL, switch. */
#include "mj_board.h"
#include "registers_stm32h7b3i.h"
#include "registers_common.h"

enum { PLL_SOURCE_HSI = 0, SYSTEM_CLOCK_PLL1 = 3, PLL_INPUT_8_TO_16_MHZ = 3 };
/* WRHIGHFREQ for 6 wait states at VOS0. */
enum { FLASH_PROGRAMMING_DELAY = 3 };

static void caches_on(void)
{
    __asm volatile("dsb\n\tisb" ::: "memory");
    CORE_CACHE_ICIALLU = 0;
    CORE_SCB_CSSELR = 0; /* level 1 data cache */
    __asm volatile("dsb" ::: "memory");
    const uint32_t shape = CORE_SCB_CCSIDR;
    const uint32_t sets = (shape >> 13) & 0x7FFFu, ways = (shape >> 3) & 0x3FFu;
    for (uint32_t set = 0; set <= sets; set++) {
        for (uint32_t way = 0; way <= ways; way++) {
            CORE_CACHE_DCISW = (way << 30) | (set << 5); /* 4 ways of 32-byte lines */
        }
    }
    __asm volatile("dsb" ::: "memory");
    CORE_SCB_CCR |= MJ_MASK(CORE_SCB_CCR_IC) | MJ_MASK(CORE_SCB_CCR_DC);
    __asm volatile("dsb\n\tisb" ::: "memory");
}

uint32_t mj_clock_start(void)
{
    const uint32_t supply = MJ_BOARD_SUPPLY_SMPS ? MJ_MASK(PWR_CR3_SCUEN) : MJ_MASK(PWR_CR3_LDOEN);
    PWR_CR3 = (PWR_CR3 & ~(MJ_MASK(PWR_CR3_SCUEN) | MJ_MASK(PWR_CR3_LDOEN) | MJ_MASK(PWR_CR3_BYPASS))) | supply;
    while (!MJ_GET(PWR_CSR1, PWR_CSR1_ACTVOSRDY)) {
    }
    MJ_SET(PWR_SRDCR, PWR_SRDCR_VOS, MJ_CLOCK_VOLTAGE_SCALE);
    while (!MJ_GET(PWR_SRDCR, PWR_SRDCR_VOSRDY)) {
    }

    FLASH_ACR = MJ_VALUE(FLASH_ACR_LATENCY, MJ_BOARD_FLASH_WAIT_STATES) |
                MJ_VALUE(FLASH_ACR_WRHIGHFREQ, FLASH_PROGRAMMING_DELAY);
    while (MJ_GET(FLASH_ACR, FLASH_ACR_LATENCY) != MJ_BOARD_FLASH_WAIT_STATES) {
    }

    MJ_SET(RCC_CR, RCC_CR_HSION, 1);
    MJ_SET(RCC_CR, RCC_CR_HSIDIV, 0);
    while (!MJ_GET(RCC_CR, RCC_CR_HSIRDY)) {
    }
    MJ_SET(RCC_CR, RCC_CR_PLL1ON, 0);
    while (MJ_GET(RCC_CR, RCC_CR_PLL1RDY)) {
    }
    MJ_SET(RCC_PLLCKSELR, RCC_PLLCKSELR_PLLSRC, PLL_SOURCE_HSI);
    MJ_SET(RCC_PLLCKSELR, RCC_PLLCKSELR_DIVM1, MJ_CLOCK_INPUT_DIVIDER);
    MJ_SET(RCC_PLLCFGR, RCC_PLLCFGR_PLL1FRACEN, 0);
    MJ_SET(RCC_PLLCFGR, RCC_PLLCFGR_PLL1VCOSEL, 0); /* wide range: the VCO runs at 560 MHz */
    MJ_SET(RCC_PLLCFGR, RCC_PLLCFGR_PLL1RGE, PLL_INPUT_8_TO_16_MHZ);
    MJ_SET(RCC_PLLCFGR, RCC_PLLCFGR_DIVP1EN, 1);
    MJ_SET(RCC_PLL1DIVR, RCC_PLL1DIVR_N1, MJ_CLOCK_MULTIPLIER - 1u);
    MJ_SET(RCC_PLL1DIVR, RCC_PLL1DIVR_P1, MJ_CLOCK_OUTPUT_DIVIDER - 1u);
    MJ_SET(RCC_CR, RCC_CR_PLL1ON, 1);
    while (!MJ_GET(RCC_CR, RCC_CR_PLL1RDY)) {
    }
    /* CPU and AXI at full speed, the peripheral buses at half of it or less. */
    MJ_SET(RCC_CDCFGR1, RCC_CDCFGR1_CDCPRE, MJ_CLOCK_CPU_BITS);
    MJ_SET(RCC_CDCFGR1, RCC_CDCFGR1_HPRE, MJ_CLOCK_AHB_BITS);
    MJ_SET(RCC_CDCFGR1, RCC_CDCFGR1_CDPPRE, MJ_CLOCK_APB3_BITS);
    MJ_SET(RCC_CDCFGR2, RCC_CDCFGR2_CDPPRE1, MJ_CLOCK_APB1_BITS);
    MJ_SET(RCC_CDCFGR2, RCC_CDCFGR2_CDPPRE2, MJ_CLOCK_APB2_BITS);
    MJ_SET(RCC_SRDCFGR, RCC_SRDCFGR_SRDPPRE, MJ_CLOCK_APB4_BITS);
    MJ_SET(RCC_CFGR, RCC_CFGR_SW, SYSTEM_CLOCK_PLL1);
    while (MJ_GET(RCC_CFGR, RCC_CFGR_SWS) != SYSTEM_CLOCK_PLL1) {
    }
    caches_on();
    return MJ_CONSOLE_CLOCK_HZ;
}
