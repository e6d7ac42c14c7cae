/* The picture of the serial protocol. A model overwrites its picture, so a copy is kept in RAM that nothing else uses,
 * where there is enough: then every inference of `infer N W` sees the picture. Otherwise only the first one does. */
#include "mj_firmware.h"

/* 0: no copy, the RAM that is left over stays untouched. */
#ifndef MJ_PICTURE_COPY
#define MJ_PICTURE_COPY 1
#endif

/* Pairs of addresses from the linker script: RAM that is left over in each memory, its start and its end. */
extern const uint32_t mj_spare[], mj_spare_end[];

static uint8_t *copy; /* NULL: none */
static uint32_t expected, loaded;
static int overwritten;

void mj_picture_start(void)
{
    for (const uint32_t *range = mj_spare; range < mj_spare_end; range += 2) {
        const uint32_t start = (range[0] + 31u) & ~31u;
        if (MJ_PICTURE_COPY && start <= range[1] && range[1] - start >= MJ_INPUT_BYTES) {
            copy = (uint8_t *)start;
            return;
        }
    }
}

const uint8_t *mj_picture_copy(void)
{
    return copy;
}

static uint8_t *place(void)
{
    return copy != NULL ? copy : MJ_INPUT;
}

int mj_picture_expect(uint32_t count)
{
    if (count == 0 || count > MJ_INPUT_BYTES) {
        return 0;
    }
    expected = count;
    loaded = 0;
    overwritten = 0;
    __builtin_memset(place(), 0, MJ_INPUT_BYTES); /* bytes that are not sent are black */
    return 1;
}

uint32_t mj_picture_missing(void)
{
    return expected - loaded;
}

void mj_picture_add(uint8_t byte)
{
    if (loaded < expected) {
        place()[loaded++] = byte;
    }
}

const uint8_t *mj_picture_bytes(uint32_t *count)
{
    *count = overwritten ? 0 : loaded;
    return place();
}

mj_picture_state mj_picture_check(void)
{
    if (expected == 0) {
        return MJ_PICTURE_NONE;
    }
    return loaded < expected ? MJ_PICTURE_INCOMPLETE : overwritten ? MJ_PICTURE_OVERWRITTEN : MJ_PICTURE_WHOLE;
}

int mj_picture_put(void)
{
    if (copy != NULL) {
        __builtin_memcpy(MJ_INPUT, copy, MJ_INPUT_BYTES);
        return 1;
    }
    const int first = !overwritten;
    overwritten = 1;
    return first;
}

void mj_picture_spoil(void)
{
    overwritten = copy == NULL;
}
