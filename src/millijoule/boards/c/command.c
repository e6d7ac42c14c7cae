/* The device protocol of MLPerf Tiny (EEMBC API of mlcommons/tiny, benchmark/api): commands end in '%', arguments are
 * separated by blanks, every reply ends with "m-ready". */
#include "mj_firmware.h"

#ifndef MJ_PROBABILITY_IS_FLOAT
#define MJ_PROBABILITY_IS_FLOAT MJ_LOGIT_IS_FLOAT
#endif

enum { LINE_BYTES = 80 };
static char command[LINE_BYTES + 1];
static uint32_t length, expected, loaded;

#if MJ_PROBABILITY_IS_FLOAT
typedef float probability;
#else
typedef int8_t probability;
#endif
static probability kept[MJ_CLASSES]; /* of the first inference after a load */
static int fresh;

/* 1 when the next word of *cursor is `word`; the cursor then stands behind it and its blanks. */
static int take(const char **cursor, const char *word)
{
    const char *at = *cursor;
    while (*word != '\0' && *at == *word) {
        at++;
        word++;
    }
    if (*word != '\0' || (*at != '\0' && *at != ' ')) {
        return 0;
    }
    while (*at == ' ') {
        at++;
    }
    *cursor = at;
    return 1;
}

/* A decimal number below 2^31; 0 when there is none. */
static int number(const char **cursor, uint32_t *value)
{
    const char *at = *cursor;
    uint32_t sum = 0;
    if (*at < '0' || *at > '9') {
        return 0;
    }
    while (*at >= '0' && *at <= '9' && sum < 100000000u) {
        sum = sum * 10u + (uint32_t)(*at++ - '0');
    }
    while (*at == ' ') {
        at++;
    }
    *cursor = at;
    *value = sum;
    return 1;
}

static int nibble(char digit)
{
    if (digit >= '0' && digit <= '9') {
        return digit - '0';
    }
    if (digit >= 'a' && digit <= 'f') {
        return digit - 'a' + 10;
    }
    return digit >= 'A' && digit <= 'F' ? digit - 'A' + 10 : -1;
}

static void error(const char *text, const char *detail)
{
    mj_print("e-[");
    mj_print(text);
    mj_print(detail);
    mj_print("]\r\n");
}

static void timestamp(uint64_t cycles)
{
    mj_print("m-lap-us-");
    mj_print_unsigned((uint32_t)(cycles / (MJ_BOARD_CLOCK_HZ / 1000000u)));
    mj_print("\r\n");
}

static void results(void)
{
    mj_print("m-results-[");
    for (uint32_t index = 0; index < MJ_CLASSES; index++) {
        if (index > 0) {
            mj_print(",");
        }
#if MJ_PROBABILITY_IS_FLOAT
        mj_print_float(kept[index], 3);
#else
        mj_print_float((float)(kept[index] + 128) / 256.0f, 3);
#endif
    }
    mj_print("]\r\n");
}

static void load_bytes(const char *cursor)
{
    if (loaded >= expected) {
        error("Send db load N first", "");
        return;
    }
    while (*cursor != '\0') {
        const int high = nibble(cursor[0]), low = high < 0 ? -1 : nibble(cursor[1]);
        if (low < 0) {
            error("Not hexadecimal: ", cursor);
            return;
        }
        if (loaded >= expected) {
            error("More bytes than announced", "");
            return;
        }
        MJ_INPUT[loaded++] = (uint8_t)(high * 16 + low);
        cursor += 2;
    }
    if (loaded == expected) {
        fresh = 1;
        mj_print("m-load-done\r\n");
    }
}

static void load(const char *cursor)
{
    uint32_t count = 0;
    if (take(&cursor, "load")) {
        if (!number(&cursor, &count) || count == 0 || count > MJ_INPUT_BYTES) {
            error("db load needs a size between 1 and the picture's bytes", "");
            return;
        }
        expected = count;
        loaded = 0;
        mj_print("m-[Expecting ");
        mj_print_unsigned(expected);
        mj_print(" bytes]\r\n");
    } else {
        load_bytes(cursor);
    }
}

/* A model overwrites its picture, so only the first inference after a load sees it: its results are the answer. The
 * later ones work on what the memory holds and serve the timing, which does not depend on the values in int8 kernels. */
static int infer_once(uint64_t *cycles)
{
    const int failed = mj_infer();
    *cycles += mj_mail.cycles;
    if (failed == 0 && fresh && mj_last.probabilities != NULL) {
        __builtin_memcpy(kept, mj_last.probabilities, sizeof kept);
        fresh = 0;
    }
    return failed;
}

static void infer(const char *cursor)
{
    uint32_t count = 1, warm = 0;
    uint64_t cycles = 0;
    int failed = 0;
    if (!number(&cursor, &count) || count == 0) {
        error("infer needs a number of inferences", "");
        return;
    }
    if (number(&cursor, &warm) && warm > 0) {
        mj_print("m-warmup-start-");
        mj_print_unsigned(warm);
        mj_print("\r\n");
        for (uint32_t run = 0; run < warm && failed == 0; run++) {
            failed = infer_once(&cycles);
        }
        mj_print("m-warmup-done\r\n");
    }
    mj_print("m-infer-start-");
    mj_print_unsigned(count);
    mj_print("\r\n");
    cycles = 0;
    timestamp(0);
    for (uint32_t run = 0; run < count && failed == 0; run++) {
        failed = infer_once(&cycles);
    }
    timestamp(cycles);
    mj_print("m-infer-done\r\n");
    if (failed != 0) {
        error("The inference failed", "");
    } else {
        results();
    }
}

static void execute(const char *cursor)
{
    while (*cursor == ' ') {
        cursor++;
    }
    if (take(&cursor, "name")) {
        mj_print("m-name-dut-[millijoule " MJ_BOARD_TITLE "]\r\n");
    } else if (take(&cursor, "profile")) {
        mj_print("m-profile-[ULPMark for tinyML Firmware V0.0.1]\r\nm-model-[" MJ_MODEL_NAME "]\r\n");
    } else if (take(&cursor, "timestamp")) {
        timestamp(mj_cycles());
    } else if (take(&cursor, "db")) {
        load(cursor);
    } else if (take(&cursor, "infer")) {
        infer(cursor);
    } else if (take(&cursor, "results")) {
        results();
    } else if (take(&cursor, "help")) {
        mj_print("m-[name% profile% timestamp% db load N% db HEX% infer N [W]% results% stack% help%]\r\n");
    } else if (take(&cursor, "stack")) {
        mj_print("m-stack-");
        mj_print_unsigned(mj_stack_peak());
        mj_print("\r\n");
    } else {
        error("Unknown command: ", cursor);
    }
    mj_print("m-ready\r\n");
}

void mj_command_character(char character)
{
    if (character == '%') {
        if (length > LINE_BYTES) {
            error("Command too long", "");
            mj_print("m-ready\r\n");
        } else {
            command[length] = '\0';
            execute(command);
        }
        length = 0;
    } else if (character == '\r' || character == '\n') {
        /* line ends between commands carry nothing */
    } else if (length < LINE_BYTES) {
        command[length++] = character;
    } else {
        length = LINE_BYTES + 1;
    }
}
