/* Time since the start, and the two kinds of timestamps of the MLPerf Tiny protocol: a printed number, or a falling edge
 * on a pin for an energy monitor (`EE_CFG_ENERGY_MODE` of mlcommons/tiny, benchmark/api). */
#include "mj_board.h"
#include MJ_BOARD_REGISTERS
#include "registers_common.h"

static int energy;
static uint64_t elapsed;
static uint32_t seen;

#ifdef MJ_TIMESTAMP_PORT
#define PORT MJ_JOIN(MJ_JOIN(GPIO, MJ_TIMESTAMP_PORT), _BASE)
/* The edge must last a microsecond; two leave room for the slowest energy monitor. */
enum { PULSE_CYCLES = MJ_BOARD_CLOCK_HZ / 500000u };

static void pin_mode(uint32_t mode)
{
    const uint32_t twice = 2u * MJ_TIMESTAMP_PIN;
    GPIO_MODER(PORT) = (GPIO_MODER(PORT) & ~(3u << twice)) | mode << twice;
}

static void fall(void)
{
    const uint32_t start = mj_cycles();
    GPIO_BSRR(PORT) = 1u << (MJ_TIMESTAMP_PIN + 16u);
    while (mj_cycles() - start < PULSE_CYCLES) {
    }
    GPIO_BSRR(PORT) = 1u << MJ_TIMESTAMP_PIN;
}

int mj_timestamp_mode(int with_energy)
{
    if (with_energy && !energy) {
        GPIO_BSRR(PORT) = 1u << MJ_TIMESTAMP_PIN; /* high before it drives the line */
        pin_mode(1);                              /* output */
    } else if (!with_energy && energy) {
        pin_mode(3); /* analog, as after reset */
    }
    energy = with_energy;
    return 1;
}
#else
static void fall(void)
{
}

int mj_timestamp_mode(int with_energy)
{
    return !with_energy; /* without a pin there is one mode only */
}
#endif

int mj_timestamp_is_energy(void)
{
    return energy;
}

uint64_t mj_time(void)
{
    const uint32_t now = mj_cycles();
    elapsed += (uint32_t)(now - seen);
    seen = now;
    return elapsed;
}

void mj_timestamp(uint64_t cycles)
{
    if (energy) {
        fall();
        return;
    }
    mj_print("m-lap-us-");
    mj_print_unsigned64(cycles / (MJ_BOARD_CLOCK_HZ / 1000000u));
    mj_print("\r\n");
}
