/* The firmware around a model: start, self-test, banner, then commands from the serial line or the debug probe. */
#include "mj_board.h"
#include "mj_firmware.h"
#include "mj_model.h"

volatile mj_mailbox mj_mail;
mj_result mj_last;

__attribute__((noinline, used)) void mj_idle(void)
{
    __asm volatile("" ::: "memory");
}

int mj_infer(void)
{
    mj_mail.status = MJ_MAIL_BUSY;
    const uint32_t start = mj_cycles();
    int error = mj_run(&mj_last);
    mj_mail.cycles = mj_cycles() - start;
    mj_mail.runs = mj_mail.runs + 1u;
    mj_mail.logits = mj_last.logits;
    mj_mail.probabilities = mj_last.probabilities;
    mj_mail.class_index = mj_last.class_index;
    if (!mj_stack_is_intact()) {
        error = MJ_FIRMWARE_STACK;
    } else if (!mj_arena_is_fenced()) {
        error = MJ_FIRMWARE_FENCE;
    }
    mj_mail.error = error;
    mj_mail.status = error == 0 ? MJ_MAIL_DONE : MJ_MAIL_FAILED;
    return error;
}

_Static_assert(MJ_WEIGHT_BYTES < MJ_BOARD_FLASH_BYTES, "the weights are larger than the flash of the board");

static void line(const char *name, uint32_t value, const char *unit)
{
    mj_print(name);
    mj_print_unsigned(value);
    mj_print(unit);
    mj_print("\r\n");
}

static void banner(void)
{
    mj_print("\r\nmillijoule firmware\r\nmodel: " MJ_MODEL_NAME "\r\nboard: " MJ_BOARD_TITLE "\r\n");
    line("clock: ", MJ_BOARD_CLOCK_HZ, " Hz");
    line("arena: ", MJ_ARENA_BYTES, " bytes");
    line("weights: ", MJ_WEIGHT_BYTES, " bytes");
    line("picture: ", MJ_INPUT_BYTES, " bytes");
    if (mj_picture_copy() == NULL) {
        mj_print("copy of the picture: none, no RAM is left for it\r\n");
    } else {
        mj_print("copy of the picture: at 0x");
        mj_print_hex((uint32_t)(uintptr_t)mj_picture_copy(), 8);
        mj_print("\r\n");
    }
}

/* Tells which of the checks at the start failed. */
static void verdict(int error)
{
    if (error == 0) {
        mj_print("start: ok\r\n");
    } else if (error == MJ_ERROR_SELF_TEST) {
        mj_print("e-[self-test failed: the golden picture gave other logits]\r\n");
    } else if (error == MJ_ERROR_WEIGHTS) {
        mj_print("e-[self-test failed: the checksum of the weights is wrong]\r\n");
    } else {
        mj_print("e-[start failed: error ");
        mj_print_integer(error);
        mj_print("]\r\n");
    }
}

int main(void)
{
    mj_mail.magic = MJ_MAIL_MAGIC;
    mj_mail.version = MJ_MAIL_VERSION;
    mj_console_start(mj_clock_start(), MJ_ENERGY_MODE ? MJ_ENERGY_BAUD : MJ_CONSOLE_BAUD);
    mj_cycles_start();
    (void)mj_timestamp_mode(MJ_ENERGY_MODE);
    mj_picture_start();
    banner();
    int error = mj_init(); /* checks the weights and runs the golden picture */
    if (error == 0 && !mj_stack_is_intact()) {
        error = MJ_FIRMWARE_STACK;
    } else if (error == 0 && !mj_arena_is_fenced()) {
        error = MJ_FIRMWARE_FENCE;
    }
    mj_mail.error = error;
    mj_mail.status = error == 0 ? MJ_MAIL_READY : MJ_MAIL_FAILED;
    verdict(error);
    mj_command_mode();
    mj_print("m-init-done\r\nm-ready\r\n");
    for (uint32_t turn = 0;; turn++) {
        mj_idle();
        if (turn % 65536u == 0) {
            (void)mj_time(); /* often enough for a counter of 32 bits */
        }
        if (mj_mail.request != 0) {
            mj_mail.request = 0;
            mj_picture_spoil();
            mj_infer();
        }
        while (mj_console_ready()) {
            mj_command_character(mj_console_get());
        }
    }
}
