/* Counts executed blocks inside the emulator: how often control went from one block to another, per layer.
 * Called by the emulator library at the start of every block; addresses of instructions are halfword aligned. */
#include <stdint.h>

enum { WINDOWS = 8, DEPTH = 16 };

typedef struct {
    /* Code windows: halfword `(address - base) / 2` of window w has the code index first + that. */
    uint64_t windows, base[WINDOWS], span[WINDOWS], first[WINDOWS];
    /* Per code index: block size in bytes (0 unseen), two-bit predictor, layer entered at this address (0 none). */
    uint16_t *size;
    uint8_t *predictor;
    uint16_t *marker;
    /* Edges, open addressing: key = layer << 44 | from << 22 | to, plus 1. */
    uint64_t *key, *count, *missed, mask, used;
    uint64_t previous, previous_end; /* code index and end address of the block before; ~0 at the beginning */
    uint64_t layer, depth, returns[DEPTH], layers[DEPTH];
    uint64_t blocks, limit, resized, outside, full, stopped;
    int (*read_register)(void *emulator, int number, void *value);
    int (*stop)(void *emulator);
    uint64_t link_register;
} context;

void mj_hook_block(void *emulator, uint64_t address, uint32_t size, void *user);

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
            break;
        }
    }
    c->count[slot]++;
    c->missed[slot] += (uint64_t)missed;
}

void mj_hook_block(void *emulator, uint64_t address, uint32_t size, void *user)
{
    context *c = user;
    if (++c->blocks >= c->limit) {
        c->stopped = 1;
        c->stop(emulator);
        return;
    }
    uint64_t window = 0;
    while (address - c->base[window] >= c->span[window]) {
        if (++window == c->windows) {
            c->outside++;
            c->previous = 0x3FFFFF;
            c->previous_end = ~0ull;
            return;
        }
    }
    const uint64_t index = c->first[window] + ((address - c->base[window]) >> 1);
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
    if (c->size[index] != size) {
        c->resized += c->size[index] != 0;
        c->size[index] = (uint16_t)size;
    }
    int missed = 0;
    if (c->previous != 0x3FFFFF) {
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
