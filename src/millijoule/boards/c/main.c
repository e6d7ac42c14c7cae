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

#ifdef MJ_SELF_TEST_LOGITS
#ifndef MJ_SELF_TEST_SEED
#define MJ_SELF_TEST_SEED 1
#endif
static const uint8_t expected[] = {MJ_SELF_TEST_LOGITS};

/* A deterministic picture through the whole model must give the logits computed on the computer, byte for byte. */
static int self_test(void)
{
    uint32_t state = MJ_SELF_TEST_SEED;
    for (uint32_t index = 0; index < MJ_INPUT_BYTES; index++) {
        state = state * 1664525u + 1013904223u;
        MJ_INPUT[index] = (uint8_t)(state >> 24);
    }
    const int error = mj_infer();
    if (error != 0) {
        return error;
    }
    const uint8_t *logits = mj_last.logits;
    for (uint32_t index = 0; index < sizeof expected; index++) {
        if (logits[index] != expected[index]) {
            return MJ_FIRMWARE_SELF_TEST;
        }
    }
    return 0;
}
#endif

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
}

int main(void)
{
    mj_mail.magic = MJ_MAIL_MAGIC;
    mj_mail.version = MJ_MAIL_VERSION;
    mj_console_start(mj_clock_start());
    mj_cycles_start();
    banner();
    int error = mj_init();
#ifdef MJ_SELF_TEST_LOGITS
    if (error == 0) {
        error = self_test();
        mj_print(error == 0 ? "self-test: ok\r\n" : "self-test: failed\r\n");
    }
#endif
    mj_mail.error = error;
    mj_mail.status = error == 0 ? MJ_MAIL_READY : MJ_MAIL_FAILED;
    if (error != 0) {
        mj_print("e-[the model does not start: error ");
        mj_print_integer(error);
        mj_print("]\r\n");
    }
    mj_print("m-timestamp-mode-performance\r\nm-init-done\r\nm-ready\r\n");
    for (;;) {
        mj_idle();
        if (mj_mail.request != 0) {
            mj_mail.request = 0;
            mj_infer();
        }
        while (mj_console_ready()) {
            mj_command_character(mj_console_get());
        }
    }
}
