/* The device protocol of MLPerf Tiny (mlcommons/tiny, benchmark/api): commands end in '%', arguments are separated by
 * blanks, every reply ends with "m-ready". Ours beside it: `info`, `raw`, `stack`, `mode`, and Ctrl-C, which stops
 * `infer` after the inference that runs and forgets a line that has been begun. */
#include "mj_firmware.h"

#ifndef MJ_PROBABILITY_IS_FLOAT
#define MJ_PROBABILITY_IS_FLOAT MJ_LOGIT_IS_FLOAT
#endif

enum { LINE_BYTES = 80, PRINT_BYTES = 16, ROW_BYTES = 8, INTERRUPTED = -1 };
#define LARGEST_NUMBER 1000000000u

static char command[LINE_BYTES + 1];
static uint32_t length; /* LINE_BYTES + 1 once the line is too long */

#if MJ_LOGIT_IS_FLOAT
typedef float logit;
#else
typedef int8_t logit;
#endif
#if MJ_PROBABILITY_IS_FLOAT
typedef float probability;
#else
typedef int8_t probability;
#endif
/* Of the last inference that saw the whole picture: the arena is used again by the next one. */
static struct {
    logit logits[MJ_CLASSES];
    probability probabilities[MJ_CLASSES];
    int32_t class_index;
    int present, with_probabilities;
} kept;

/* *** reading *** */

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

/* 1 and a decimal number up to LARGEST_NUMBER (larger ones count as that); 0 when the next word is none. */
static int number(const char **cursor, uint32_t *value)
{
    const char *at = *cursor;
    uint32_t sum = 0;
    if (*at < '0' || *at > '9') {
        return 0;
    }
    while (*at >= '0' && *at <= '9') {
        sum = sum >= LARGEST_NUMBER / 10u ? LARGEST_NUMBER : sum * 10u + (uint32_t)(*at - '0');
        at++;
    }
    if (*at != '\0' && *at != ' ') {
        return 0;
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

/* *** answering *** */

/* What came over the line may be noise: only printable characters are sent back. */
static void error(const char *text, const char *detail)
{
    mj_print("e-[");
    mj_print(text);
    for (; *detail != '\0'; detail++) {
        mj_console_put(*detail >= ' ' && *detail <= '~' ? *detail : '?');
    }
    mj_print("]\r\n");
}

static void value(const char *name, uint32_t count)
{
    mj_print("m-");
    mj_print(name);
    mj_print("-[");
    mj_print_unsigned(count);
    mj_print("]\r\n");
}

static float kept_value(uint32_t index)
{
    if (!kept.with_probabilities) {
        return MJ_LOGIT_SCALE * (float)(kept.logits[index] - MJ_LOGIT_ZERO_POINT);
    }
#if MJ_PROBABILITY_IS_FLOAT
    return kept.probabilities[index];
#else
    return (float)(kept.probabilities[index] + 128) / 256.0f;
#endif
}

/* Probabilities to three decimals; logits where the model ends with them. */
static void results(void)
{
    if (!kept.present) {
        error("There was no inference yet", "");
        return;
    }
    mj_print("m-results-[");
    for (uint32_t index = 0; index < MJ_CLASSES; index++) {
        if (index > 0) {
            mj_print(",");
        }
        mj_print_float(kept_value(index), 3);
    }
    mj_print("]\r\n");
}

static void hexadecimal(const char *name, const void *start, uint32_t count)
{
    const uint8_t *bytes = start;
    mj_print("m-raw-");
    mj_print(name);
    mj_print("-[");
    for (uint32_t index = 0; index < count; index++) {
        mj_print_hex(bytes[index], 2);
    }
    mj_print("]\r\n");
}

/* The results as they lie in memory, lowest byte first. */
static void raw(void)
{
    if (!kept.present) {
        error("There was no inference yet", "");
        return;
    }
    hexadecimal("logits", kept.logits, sizeof kept.logits);
    if (kept.with_probabilities) {
        hexadecimal("probabilities", kept.probabilities, sizeof kept.probabilities);
    }
    mj_print("m-raw-class-[");
    mj_print_integer(kept.class_index);
    mj_print("]\r\n");
}

static void info(void)
{
    mj_print("m-board-[" MJ_BOARD_TITLE "]\r\n");
    value("clock-hz", MJ_BOARD_CLOCK_HZ);
    value("input-bytes", MJ_INPUT_BYTES);
    value("classes", MJ_CLASSES);
    value("arena-bytes", MJ_ARENA_BYTES);
    value("weight-bytes", MJ_WEIGHT_BYTES);
    value("logits-are-float", MJ_LOGIT_IS_FLOAT);
    value("picture-is-kept", mj_picture_copy() != NULL);
}

/* *** the picture *** */

static void load(const char *cursor)
{
    uint32_t count = 0;
    if (!number(&cursor, &count) || *cursor != '\0' || !mj_picture_expect(count)) {
        error("db load needs a size between 1 and the picture's bytes", "");
        return;
    }
    mj_print("m-[Expecting ");
    mj_print_unsigned(count);
    mj_print(" bytes]\r\n");
}

/* A line is taken whole or not at all, so that the host may send it again. */
static void load_bytes(const char *cursor)
{
    uint32_t digits = 0;
    while (nibble(cursor[digits]) >= 0) {
        digits++;
    }
    if (mj_picture_missing() == 0) {
        error("Send db load N first", "");
    } else if (cursor[digits] != '\0' || digits == 0 || digits % 2u != 0) {
        error("Not hexadecimal: ", cursor);
    } else if (digits / 2u > mj_picture_missing()) {
        error("More bytes than announced", "");
    } else {
        for (; *cursor != '\0'; cursor += 2) {
            mj_picture_add((uint8_t)(nibble(cursor[0]) * 16 + nibble(cursor[1])));
        }
        if (mj_picture_missing() == 0) {
            mj_print("m-load-done\r\n");
        }
    }
}

static void print_bytes(const char *cursor)
{
    uint32_t count = PRINT_BYTES, offset = 0, present = 0;
    if (*cursor != '\0' && (!number(&cursor, &count) || (*cursor != '\0' && !number(&cursor, &offset)) || *cursor)) {
        error("db print needs a number of bytes and an offset", "");
        return;
    }
    const uint8_t *bytes = mj_picture_bytes(&present);
    if (present == 0) {
        error("There is no picture", "");
        return;
    }
    if (offset > present || count > present - offset) {
        error("db print ends behind the picture", "");
        return;
    }
    for (uint32_t index = 0; index < count; index++) {
        mj_print(index % ROW_BYTES == 0 ? "m-buffer-" : "-");
        mj_print_hex(bytes[offset + index], 2);
        if (index + 1u == count || index % ROW_BYTES == ROW_BYTES - 1u) {
            mj_print("\r\n");
        }
    }
}

static void buffer(const char *cursor)
{
    if (take(&cursor, "load")) {
        load(cursor);
    } else if (take(&cursor, "print")) {
        print_bytes(cursor);
    } else {
        load_bytes(cursor);
    }
}

/* *** inference *** */

static void keep(void)
{
    __builtin_memcpy(kept.logits, mj_last.logits, sizeof kept.logits);
    kept.with_probabilities = mj_last.probabilities != NULL;
    if (kept.with_probabilities) {
        __builtin_memcpy(kept.probabilities, mj_last.probabilities, sizeof kept.probabilities);
    }
    kept.class_index = mj_last.class_index;
    kept.present = 1;
}

/* Adds the cycles of the inferences alone: the picture is put in place, and results are kept, between them. */
static int infer_times(uint32_t count, uint64_t *cycles)
{
    for (uint32_t run = 0; run < count; run++) {
        const int seen = mj_picture_put();
        const int failed = mj_infer();
        if (failed != 0) {
            return failed;
        }
        *cycles += mj_mail.cycles;
        if (seen) {
            keep();
        }
        (void)mj_time();
        if (mj_console_interrupted()) {
            return INTERRUPTED;
        }
    }
    return 0;
}

static int picture_is_ready(void)
{
    switch (mj_picture_check()) {
    case MJ_PICTURE_NONE:
        error("Send db load N first", "");
        return 0;
    case MJ_PICTURE_INCOMPLETE:
        error("The picture is not complete", "");
        return 0;
    case MJ_PICTURE_OVERWRITTEN:
        error("The last inference has overwritten the picture, and no RAM is left for a copy: load it again", "");
        return 0;
    default:
        return 1;
    }
}

static void infer(const char *cursor)
{
    uint32_t count = 0, warm = 0;
    uint64_t cycles = 0, ignored = 0;
    if (!number(&cursor, &count) || count == 0 || (*cursor != '\0' && !number(&cursor, &warm)) || *cursor != '\0') {
        error("infer needs a number of inferences, and may have one of warm-ups", "");
        return;
    }
    if (!picture_is_ready()) {
        return;
    }
    if (mj_picture_copy() == NULL && (uint64_t)count + warm > 1u) {
        mj_print("m-[No RAM for a copy of the picture: the first inference sees it and gives the results, "
                 "the others only take their time]\r\n");
    }
    mj_print("m-warmup-start-");
    mj_print_unsigned(warm);
    mj_print("\r\n");
    int failed = infer_times(warm, &ignored);
    mj_print("m-warmup-done\r\nm-infer-start-");
    mj_print_unsigned(count);
    mj_print("\r\n");
    mj_console_flush(); /* sending costs energy */
    const uint64_t start = mj_time();
    mj_timestamp(start);
    if (failed == 0) {
        failed = infer_times(count, &cycles);
    }
    mj_timestamp(start + cycles);
    mj_print("m-infer-done\r\n");
    if (mj_console_lost()) {
        error("Characters that came during the inferences were lost: wait for m-ready", "");
    }
    if (failed == INTERRUPTED) {
        error("Interrupted", "");
    } else if (failed != 0) {
        error("The inference failed", "");
    } else {
        results();
    }
}

/* *** the mode of the timestamps *** */

void mj_command_mode(void)
{
    mj_print(mj_timestamp_is_energy() ? "m-timestamp-mode-energy\r\n" : "m-timestamp-mode-performance\r\n");
}

/* Returns the baud rate that holds after the reply, 0 for no change. */
static uint32_t mode(const char *cursor)
{
    if (*cursor == '\0') {
        mj_command_mode();
        return 0;
    }
    const int energy = take(&cursor, "energy");
    if ((!energy && !take(&cursor, "performance")) || *cursor != '\0') {
        error("The modes are energy and performance", "");
        return 0;
    }
    if (!mj_timestamp_mode(energy)) {
        error("This board has no pin for timestamps", "");
        return 0;
    }
    mj_command_mode();
    return energy ? MJ_ENERGY_BAUD : MJ_CONSOLE_BAUD;
}

static void help(void)
{
    mj_print("ULPMark for tinyML Firmware V0.0.1\r\n\r\n"
             "help         : this text\r\n"
             "name         : the name of the device\r\n"
             "profile      : the protocol and the model\r\n"
             "timestamp    : microseconds since the start; in energy mode a falling edge on the timestamp pin\r\n"
             "db load N    : a picture of N bytes follows\r\n"
             "db HH[HH]*   : its next bytes in hexadecimal\r\n"
             "db print [N=16] [OFFSET=0]\r\n"
             "             : N bytes of the picture from OFFSET\r\n"
             "infer N [W=0]: N inferences after W warm-ups\r\n"
             "results      : the last results, three decimals\r\n"
             "raw          : the last results as stored, in hexadecimal\r\n"
             "info         : sizes of the model, the clock\r\n"
             "mode [energy|performance]\r\n"
             "             : kind of timestamps and baud rate\r\n"
             "stack        : bytes of stack ever used\r\n"
             "Every command ends with a percent sign; Ctrl-C stops infer.\r\n");
}

static void execute(const char *cursor)
{
    uint32_t baud = 0;
    while (*cursor == ' ') {
        cursor++;
    }
    if (take(&cursor, "name")) {
        mj_print("m-name-dut-[millijoule " MJ_BOARD_TITLE "]\r\n");
#if MJ_PROFILE
    } else if (take(&cursor, "profile layers")) {
        mj_profile_print();
#endif
    } else if (take(&cursor, "profile")) {
        mj_print("m-profile-[ULPMark for tinyML Firmware V0.0.1]\r\nm-model-[" MJ_MODEL_NAME "]\r\n");
    } else if (take(&cursor, "timestamp")) {
        mj_timestamp(mj_time());
    } else if (take(&cursor, "db")) {
        buffer(cursor);
    } else if (take(&cursor, "infer")) {
        infer(cursor);
    } else if (take(&cursor, "results")) {
        results();
    } else if (take(&cursor, "raw")) {
        raw();
    } else if (take(&cursor, "info")) {
        info();
    } else if (take(&cursor, "mode")) {
        baud = mode(cursor);
    } else if (take(&cursor, "help")) {
        help();
    } else if (take(&cursor, "stack")) {
        mj_print("m-stack-");
        mj_print_unsigned(mj_stack_peak());
        mj_print("\r\n");
    } else {
        error("Unknown command: ", cursor);
    }
    mj_print("m-ready\r\n");
    if (baud != 0) {
        mj_console_baud(baud);
    }
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
    } else if (character == MJ_INTERRUPT) {
        length = 0;
    } else if (character == '\r' || character == '\n') {
        /* line ends between commands carry nothing */
    } else if (length < LINE_BYTES) {
        command[length++] = character == '\0' ? '?' : character; /* a zero would hide what follows it */
    } else {
        length = LINE_BYTES + 1;
    }
}
