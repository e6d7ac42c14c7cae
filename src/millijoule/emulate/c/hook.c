/* Counts executed blocks inside the emulator: how often control went from one block to another, per layer; keeps the
 * time; stops the emulator before a block when an exception may be due. Called by the emulator library at the start of
 * every block; addresses of instructions are halfword aligned. */
#include <stdint.h>

enum { WINDOWS = 8, DEPTH = 16, LOWEST = 256 };
#define NOTHING 0x3FFFFFull

typedef struct {
    /* Code windows: halfword `(address - base) / 2` of window w has the code index first + that. */
    uint64_t windows, base[WINDOWS], span[WINDOWS], first[WINDOWS];
    /* Per code index: block size in bytes (0 unseen), two-bit predictor, layer entered at this address (0 none). */
    uint16_t *size;
    uint8_t *predictor;
    uint16_t *marker;
    /* Edges, open addressing: key = layer << 44 | from << 22 | to, plus 1; price = cycles of a wrong prediction << 32
     * | cycles. */
    uint64_t *key, *count, *missed, *price, mask, used;
    uint64_t previous, previous_end; /* code index and end address of the block before; ~0 at the beginning */
    uint64_t layer, depth, returns[DEPTH], layers[DEPTH];
    uint64_t blocks, limit, resized, outside, full, stopped;
    /* Time in cycles. At `deadline` the block is not begun if `timer` has come or an exception of priority `masked` is
     * no longer held back by PRIMASK or BASEPRI (LOWEST: nothing is held back, stop at once). */
    uint64_t clock, deadline, timer, masked, group_mask, paused;
    uint64_t trapped;  /* address of a division by zero, or 0 */
    int (*read_register)(void *emulator, int number, void *value);
    int (*read_memory)(void *emulator, uint64_t address, void *bytes, uint64_t size);
    int (*stop)(void *emulator);
    uint64_t (*fresh)(uint64_t address, uint64_t size);
    uint64_t (*cost)(uint64_t from, uint64_t to);
    uint64_t link_register, primask, basepri, first_register;
} context;

void mj_hook_block(void *emulator, uint64_t address, uint32_t size, void *user);
void mj_hook_divide(void *emulator, uint64_t address, uint32_t size, void *user);

static void count_edge(context *c, uint64_t to, int missed)
{
    const uint64_t key = (c->layer << 44 | c->previous << 22 | to) + 1;
    uint64_t slot = (key * 0x9E3779B97F4A7C15ull) >> 32;
    for (;; slot++) {
        slot &= c->mask;
        if (c->key[slot] == key) {
            break;
        }
        if (c->key[slot] == 0) {
            if (c->used * 4 > c->mask * 3) {
                c->full++;
                return;
            }
            c->used++;
            c->key[slot] = key;
            c->price[slot] = c->cost(c->previous, to);
            break;
        }
    }
    c->count[slot]++;
    c->missed[slot] += (uint64_t)missed;
    c->clock += (uint32_t)c->price[slot];
    if (missed) {
        c->clock += c->price[slot] >> 32;
    }
}

/* Whether the emulator must stop before the next block. */
static int is_due(const context *c, void *emulator)
{
    uint32_t value = 0;
    uint64_t current = LOWEST;
    if (c->clock >= c->timer || c->masked == LOWEST) {
        return 1;
    }
    c->read_register(emulator, (int)c->basepri, &value);
    if ((value & 0xFF) != 0) {
        current = value & c->group_mask;
    }
    value = 0;
    c->read_register(emulator, (int)c->primask, &value);
    return !(value & 1) && c->masked < current;
}

static void pause_before(context *c, void *emulator)
{
    c->blocks--;
    c->paused = 1;
    c->stop(emulator);
}

void mj_hook_block(void *emulator, uint64_t address, uint32_t size, void *user)
{
    context *c = user;
    if (++c->blocks >= c->limit) {
        c->stopped = 1;
        c->stop(emulator);
        return;
    }
    if (c->clock >= c->deadline && is_due(c, emulator)) {
        pause_before(c, emulator);
        return;
    }
    uint64_t window = 0;
    while (address - c->base[window] >= c->span[window]) {
        if (++window == c->windows) {
            c->outside++;
            c->clock += size / 2;
            c->previous = NOTHING;
            c->previous_end = ~0ull;
            return;
        }
    }
    const uint64_t index = c->first[window] + ((address - c->base[window]) >> 1);
    if (c->size[index] != size) {
        c->resized += c->size[index] != 0;
        c->size[index] = (uint16_t)size;
        if (c->fresh(address, size)) {
            pause_before(c, emulator);
            return;
        }
    }
    while (c->depth > 0 && c->returns[c->depth - 1] == address) {
        c->layer = c->layers[--c->depth];
    }
    const uint64_t entered = c->marker[index];
    if (entered != 0) {
        uint32_t link = 0;
        c->read_register(emulator, (int)c->link_register, &link);
        link &= ~1u;
        /* A loop may lead back to the first instruction: that is no new call. */
        if (c->depth < DEPTH && !(c->layer == entered && c->depth > 0 && c->returns[c->depth - 1] == link)) {
            c->returns[c->depth] = link;
            c->layers[c->depth++] = c->layer;
            c->layer = entered;
        }
    }
    int missed = 0;
    if (c->previous != NOTHING) {
        /* Two-bit counter of the branch that ended the block before. */
        uint8_t *state = &c->predictor[c->previous];
        const int taken = address != c->previous_end;
        missed = (*state >= 2) != taken;
        if (taken) {
            *state += *state < 3;
        } else {
            *state -= *state > 0;
        }
    }
    count_edge(c, index, missed);
    c->previous = index;
    c->previous_end = address + size;
}

/* Installed at single SDIV and UDIV instructions (encoding: Rm in the lowest bits of the second halfword). */
void mj_hook_divide(void *emulator, uint64_t address, uint32_t size, void *user)
{
    context *c = user;
    uint8_t code[4] = {0};
    uint32_t divisor = 1;
    (void)size;
    if (c->read_memory(emulator, address, code, sizeof code) == 0) {
        const int number = code[2] & 15;
        const int place = number == 14 ? (int)c->link_register : (int)c->first_register + number;
        c->read_register(emulator, place, &divisor);
    }
    if (divisor == 0) {
        c->trapped = address;
        c->stop(emulator);
    }
}
