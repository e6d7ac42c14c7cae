/* What the tracing hook (trace.c) and the simulators of the cores (m4.c, m7.c) share. */
#ifndef MJ_TRACE_H
#define MJ_TRACE_H

#include <stdint.h>

enum { WINDOWS = 16, DEPTH = 16, EVENTS = 4096, UNITS = 8, REGISTERS = 48, MEMORY_COUNTERS = 16 };

/* Kinds of instructions, in the order of KINDS in _decode.py. */
enum {
    ALU, NOP, IT, BRANCH, CALL, INDIRECT, TABLE, DIVIDE, MULTIPLY, SYSTEM, LOAD, STORE, LOAD_DOUBLE, STORE_DOUBLE,
    LOAD_MANY, STORE_MANY, FLOAT, FLOAT_MULTIPLY_ADD, FLOAT_DIVIDE, FLOAT_LOAD, FLOAT_STORE, FLOAT_LOAD_MANY,
    FLOAT_STORE_MANY, KINDS
};

/* Causes of stalls, in the order of STALLS in trace.py. */
enum {
    LOAD_USE, DEPENDENCY, BRANCHING, FLASH_FETCH, FLASH_DATA, INSTRUCTION_CACHE, DATA_CACHE, BANK, UNALIGNED, CAUSES
};

/* Memories, in the order of _PLACES in tracing.py. */
enum { IMMEDIATE, FLASH, AXI, AHB, SLOW };

enum {
    WRITES_PC = 1, CONDITIONAL = 2, SETS_FLAGS = 4, USES_FLAGS = 8, WRITES_BACK = 16, IN_IT = 32, OVERLAPS = 64,
    ALONE = 128, FIRST_SLOT = 256, LOADS_ONE = 512, COMPUTES = 1024
};

enum { NO_ACCESS, READS, WRITES };

/* One decoded instruction. Registers are bits: 0..15 the core's, 16..47 single precision. Mirrored in _records.py. */
typedef struct {
    uint64_t reads, writes, addresses, early, late;
    uint32_t address;
    int32_t displacement;
    uint32_t unit_mask;      /* M7: units it needs */
    uint16_t flags, layer;   /* layer: number of the layer that begins here, 0 none */
    uint8_t kind, size, place; /* place: the memory the code lies in */
    uint8_t access, base, index, shift, bytes, element;
    uint8_t cycles, refill;  /* M4: by itself; more, when control goes elsewhere */
    uint8_t latency, occupies; /* M7 */
    uint8_t predictor;
    uint8_t unused[2];
} instruction;

typedef struct {
    uint64_t issued, skipped, cycles, stalls[CAUSES];
} cell;

typedef struct {
    cell total;
    uint64_t kinds[KINDS];
} layer_cell;

typedef struct {
    uint32_t row, address, layer; /* row of the instruction, address of its data */
} event;

/* Shared with Python; mirrored by Context in _trace_native.py. */
typedef struct {
    uint64_t windows, base[WINDOWS], span[WINDOWS], first[WINDOWS], place[WINDOWS];
    uint32_t *row_of; /* per halfword of the windows: row + 1, 0 unseen */
    instruction *rows;
    cell *cells; /* per row */
    layer_cell *layers;
    const int32_t *rules;
    void *core;           /* the simulator, of the kind 0 (M4) or 1 (M7) */
    uint64_t core_kind;
    int (*read_register)(void *emulator, int number, void *value);
    int (*stop)(void *emulator);
    int (*decode)(uint32_t address, uint32_t size); /* fills the row of an instruction; nonzero: give up */
    uint64_t register_number[16];
    uint64_t layer, depth, returns[DEPTH], outer[DEPTH];
    uint64_t failed, outside, window, pending;
    uint64_t memory[MEMORY_COUNTERS]; /* events of the memories, named by the core's list */
    event events[EVENTS];
} context;

/* The memory an address lies in: the windows cover all memories of the board, the rest is peripherals. */
static inline uint32_t place_of(const context *c, uint32_t address)
{
    for (uint64_t window = 0; window < c->windows; window++) {
        if (address - c->base[window] < c->span[window]) {
            return (uint32_t)c->place[window];
        }
    }
    return IMMEDIATE;
}

static inline uint32_t end_of(const instruction *row)
{
    return row->address + row->size;
}

/* Whether control can leave the straight line behind this instruction. */
static inline int is_branch(const instruction *row)
{
    return (row->kind >= BRANCH && row->kind <= TABLE) || (row->flags & WRITES_PC) != 0;
}

enum { LONGEST_IT = 4 };

/* Instructions of an IT block whose condition failed do not reach the hook: they are the gap between an instruction
 * and the next one that executed. Stores their rows and returns how many there are; 0 where control jumped. */
static inline unsigned skipped_rows(const context *c, const instruction *row, uint32_t next, uint32_t found[LONGEST_IT])
{
    unsigned count = 0;
    uint32_t address = end_of(row);
    if (row->kind != IT && (row->flags & IN_IT) == 0) {
        return 0;
    }
    while (address < next && count < LONGEST_IT) {
        const uint32_t offset = address - (uint32_t)c->base[c->window];
        if (offset >= c->span[c->window]) {
            return 0;
        }
        const uint32_t number = c->row_of[c->first[c->window] + (offset >> 1)];
        if (number == 0 || (c->rows[number - 1].flags & IN_IT) == 0) {
            return 0;
        }
        found[count++] = number - 1;
        address = end_of(&c->rows[number - 1]);
    }
    return address == next ? count : 0;
}

/* Cycles go to the instruction and to the layer. */
static inline void add_cycles(context *c, const event *e, int64_t cycles)
{
    c->cells[e->row].cycles += (uint64_t)cycles;
    c->layers[e->layer].total.cycles += (uint64_t)cycles;
}

static inline void add_stall(context *c, const event *e, int cause, int64_t cycles)
{
    c->cells[e->row].stalls[cause] += (uint64_t)cycles;
    c->layers[e->layer].total.stalls[cause] += (uint64_t)cycles;
}

static inline void add_skipped(context *c, uint32_t row, uint32_t layer)
{
    c->cells[row].issued++;
    c->cells[row].skipped++;
    c->layers[layer].total.issued++;
    c->layers[layer].total.skipped++;
    c->layers[layer].kinds[c->rows[row].kind]++;
}

void mj_m4_step(context *c, const event *e, uint32_t next);
void mj_m7_step(context *c, const event *e, uint32_t next);

#endif
