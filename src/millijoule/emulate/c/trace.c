/* Full trace: called by the emulator library before every executed instruction. Computes the data address from the
 * registers (memory hooks of the library disturb conditional instructions), keeps track of layers, and hands events in
 * portions to the simulator of the core. */
#include "trace.h"

#include <stddef.h>
#include <stdlib.h>

void mj_trace_code(void *emulator, uint64_t address, uint32_t size, void *user);
void mj_trace_flush(context *c);
uint64_t mj_trace_size(int which);
void mj_trace_free(void *core);

typedef void (*step)(context *, const event *, uint32_t);

static void consume(context *c, uint64_t count)
{
    const step steps[] = {mj_m4_step, mj_m7_step};
    const step one = steps[c->core_kind];
    for (uint64_t number = 0; number < count; number++) {
        const event *e = &c->events[number];
        const instruction *row = &c->rows[e->row];
        c->cells[e->row].issued++;
        c->layers[e->layer].total.issued++;
        c->layers[e->layer].kinds[row->kind]++;
        one(c, e, number + 1 < c->pending ? c->rows[c->events[number + 1].row].address : end_of(row));
    }
}

/* Every event but the last, whose successor is not known yet. */
static void drain(context *c)
{
    consume(c, c->pending - 1);
    c->events[0] = c->events[c->pending - 1];
    c->pending = 1;
}

/* At the end of a run: the last instruction, too, as if control went on behind it. */
void mj_trace_flush(context *c)
{
    consume(c, c->pending);
    c->pending = 0;
}

static uint32_t data_address(const context *c, void *emulator, const instruction *row)
{
    uint32_t base = 0, index = 0;
    if (row->base == 15) {
        base = row->address + 4;
        if (row->kind != TABLE) {
            base &= ~3u;
        }
    } else {
        c->read_register(emulator, (int)c->register_number[row->base], &base);
    }
    if (row->index != 255) {
        c->read_register(emulator, (int)c->register_number[row->index], &index);
        index <<= row->shift;
    }
    return base + index + (uint32_t)row->displacement;
}

/* Layers as in hook.c: from the first instruction of a layer's function until control is back behind its call. */
static void follow_layers(context *c, void *emulator, const instruction *row)
{
    while (c->depth > 0 && c->returns[c->depth - 1] == row->address) {
        c->layer = c->outer[--c->depth];
    }
    if (row->layer == 0) {
        return;
    }
    uint32_t link = 0;
    c->read_register(emulator, (int)c->register_number[14], &link);
    link &= ~1u;
    /* A loop may lead back to the first instruction: that is no new call. */
    if (c->depth < DEPTH && !(c->layer == row->layer && c->depth > 0 && c->returns[c->depth - 1] == link)) {
        c->returns[c->depth] = link;
        c->outer[c->depth++] = c->layer;
        c->layer = row->layer;
    }
}

static void give_up(context *c, void *emulator)
{
    c->failed = 1;
    c->stop(emulator);
}

void mj_trace_code(void *emulator, uint64_t address, uint32_t size, void *user)
{
    context *c = user;
    if (c->failed) {
        return;
    }
    uint64_t window = c->window;
    if (address - c->base[window] >= c->span[window]) {
        for (window = 0; window < c->windows && address - c->base[window] >= c->span[window];) {
            window++;
        }
        if (window == c->windows) {
            c->outside++;
            give_up(c, emulator);
            return;
        }
        if (c->pending > 1) {
            drain(c); /* what is pending looks for skipped instructions in its own window */
        }
        c->window = window;
    }
    const uint64_t index = c->first[window] + ((address - c->base[window]) >> 1);
    if (c->row_of[index] == 0 || c->rows[c->row_of[index] - 1].size != size) {
        if (c->decode((uint32_t)address, size) != 0) {
            give_up(c, emulator);
            return;
        }
    }
    const uint32_t number = c->row_of[index] - 1;
    const instruction *row = &c->rows[number];
    follow_layers(c, emulator, row);
    event *e = &c->events[c->pending++];
    e->row = number;
    e->layer = (uint32_t)c->layer;
    e->address = row->access != NO_ACCESS ? data_address(c, emulator, row) : 0;
    if (c->pending == EVENTS) {
        drain(c);
    }
}

void mj_trace_free(void *core)
{
    free(core);
}

/* Sizes of the structures that Python mirrors: 0 context, 1 instruction, 2 cell, 3 layer_cell. */
uint64_t mj_trace_size(int which)
{
    const size_t sizes[] = {sizeof(context), sizeof(instruction), sizeof(cell), sizeof(layer_cell)};
    return which >= 0 && which < 4 ? sizes[which] : 0;
}
