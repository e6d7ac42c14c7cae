/* Cortex-M7F with its caches: one step per executed instruction.
 * The rules and their sources are in cortex_m7.py. Time is the cycle in which the latest instruction issued. */
#include "trace.h"

#include "memory.h"

#include <stdlib.h>
#include <string.h>

#define RULES(X)                                                                                                  \
    X(taken_bubble) X(load_with_store) X(two_loads) X(mispredict) X(unaligned) X(instruction_bytes) X(data_bytes) \
    X(flash_first) X(flash_second) X(axi_first) X(axi_next) X(ahb_first) X(write_back) X(line_fill_buffers)
#define MEMBER(name) int32_t name;
#define NAME(name) #name " "

typedef struct {
    RULES(MEMBER)
} rules;

const char mj_m7_rules[] = RULES(NAME);
const char mj_m7_memory[] = "instruction_lines data_hits data_lines data_lines_written_back mispredicted "
                            "bank_conflicts unaligned issued_in_pairs ";

enum { INSTRUCTION_LINES, DATA_HITS, DATA_LINES, WRITTEN_BACK, MISPREDICTED, BANK_CONFLICTS, UNALIGNED_LOADS, PAIRS };
enum { UNIT_ALU, UNIT_LOAD, UNIT_STORE };
enum { LINE = 32, CHUNKS = 4, FILLS = 2, INSTRUCTION_WAYS = 2, DATA_WAYS = 4 };

#define NO_LINE 0xFFFFFFFFu

typedef struct {
    uint32_t line;
    int64_t came[CHUNKS]; /* when each 64 bits of the line are there */
    int64_t done;
} fill;

typedef struct {
    rules rule;
    int64_t now;
    int slot; /* instructions issued in this cycle */
    uint8_t used[UNITS];
    int has_load;
    uint32_t load; /* address of a load issued in this cycle */
    int64_t ready[REGISTERS], flags;
    uint8_t cause[REGISTERS]; /* why the register is late */
    uint32_t line;            /* line of code of the instruction before */
    fill fills[FILLS];
    int64_t bus_free;
    cache instructions, data;
} m7;

void *mj_m7_new(context *c);

void *mj_m7_new(context *c)
{
    m7 *s = calloc(1, sizeof *s);
    if (s == NULL) {
        return NULL;
    }
    const int32_t *values = c->rules;
#define TAKE(name) s->rule.name = *values++;
    RULES(TAKE)
    cache_configure(&s->instructions, (uint32_t)s->rule.instruction_bytes / LINE, INSTRUCTION_WAYS, LINE, LINE);
    cache_configure(&s->data, (uint32_t)s->rule.data_bytes / LINE, DATA_WAYS, LINE, LINE);
    s->line = NO_LINE;
    for (unsigned number = 0; number < FILLS; number++) {
        s->fills[number].line = NO_LINE;
    }
    return s;
}

static int64_t later(int64_t one, int64_t other)
{
    return one > other ? one : other;
}

static void begin_cycle(m7 *s, int64_t cycle)
{
    s->now = cycle;
    s->slot = 0;
    s->has_load = 0;
    memset(s->used, 0, sizeof s->used);
}

static int is_cached(uint32_t place)
{
    return place == FLASH || place == AXI || place == AHB;
}

static int64_t first_latency(const m7 *s, uint32_t place)
{
    return place == FLASH ? s->rule.flash_first : place == AXI ? s->rule.axi_first : s->rule.ahb_first;
}

/* How long the bus is busy after the first word of a line. */
static int64_t rest_of_line(const m7 *s, uint32_t place)
{
    return place == FLASH ? s->rule.flash_second + 1 : (CHUNKS - 1) * s->rule.axi_next;
}

static void fetch(context *c, m7 *s, const event *e, const instruction *row)
{
    if (s->rule.instruction_bytes == 0 || !is_cached(row->place)) {
        return;
    }
    for (uint32_t line = row->address / LINE; line <= (end_of(row) - 1) / LINE; line++) {
        if (line == s->line) {
            continue;
        }
        s->line = line;
        if (cache_find(&s->instructions, line * LINE) != 0) {
            continue;
        }
        int evicted;
        c->memory[INSTRUCTION_LINES]++;
        const int64_t begin = later(s->now, s->bus_free);
        const int64_t came = begin + first_latency(s, row->place);
        s->bus_free = came + rest_of_line(s, row->place);
        add_stall(c, e, row->place == FLASH ? FLASH_FETCH : INSTRUCTION_CACHE, came - s->now);
        begin_cycle(s, came);
        cache_fill(&s->instructions, line * LINE, &evicted);
    }
}

static void wait_for_operands(context *c, m7 *s, const event *e, const instruction *row)
{
    int64_t start = s->now;
    int cause = DEPENDENCY;
    for (uint64_t left = row->reads; left != 0; left &= left - 1) {
        const int number = __builtin_ctzll(left);
        int64_t ready = s->ready[number];
        if (ready > 0) {
            ready += (int64_t)(row->early >> number & 1);
            ready -= (int64_t)(row->late >> number & 1 & ~(row->early >> number));
        }
        if (ready > start) {
            start = ready;
            cause = s->cause[number];
        }
    }
    if ((row->flags & USES_FLAGS) != 0 && row->kind != BRANCH && s->flags > start) {
        start = s->flags;
        cause = DEPENDENCY;
    }
    if (start > s->now) {
        int64_t lost = start - s->now - (s->slot >= 2);
        if (cause == UNALIGNED && lost > s->rule.unaligned) { /* the rest an aligned load would have cost, too */
            add_stall(c, e, LOAD_USE, lost - s->rule.unaligned);
            lost = s->rule.unaligned;
        }
        add_stall(c, e, cause, lost);
        begin_cycle(s, start);
    }
}

static int fits(context *c, m7 *s, const event *e, const instruction *row)
{
    if (s->slot == 0) {
        return 1;
    }
    if (s->slot >= 2 || (row->flags & (ALONE | FIRST_SLOT)) != 0) {
        return 0;
    }
    for (uint32_t left = row->unit_mask; left != 0; left &= left - 1) {
        const int unit = __builtin_ctz(left);
        const int limit = unit == UNIT_ALU || (unit == UNIT_LOAD && s->rule.two_loads) ? 2 : 1;
        if (s->used[unit] >= limit) {
            return 0;
        }
    }
    if (!s->rule.load_with_store) {
        const int loads = (int)(row->unit_mask >> UNIT_LOAD & 1), stores = (int)(row->unit_mask >> UNIT_STORE & 1);
        if ((loads && s->used[UNIT_STORE] > 0) || (stores && s->used[UNIT_LOAD] > 0)) {
            return 0;
        }
    }
    if (row->kind == LOAD && s->has_load) {
        const uint32_t differs = s->load ^ e->address;
        if ((differs & 4) == 0 && (differs & ~3u) != 0) {
            c->memory[BANK_CONFLICTS]++;
            add_stall(c, e, BANK, 1);
            return 0;
        }
    }
    return 1;
}

/* The fill that a line is part of, NULL when none is under way. */
static fill *fill_of(m7 *s, uint32_t line)
{
    for (int number = 0; number < s->rule.line_fill_buffers; number++) {
        if (s->fills[number].line == line) {
            return &s->fills[number];
        }
    }
    return NULL;
}

/* The line-fill buffer that is free first. */
static fill *next_buffer(m7 *s)
{
    return s->rule.line_fill_buffers > 1 && s->fills[1].done < s->fills[0].done ? &s->fills[1] : &s->fills[0];
}

/* Begins to fill a line, the 64 bits at `address` first; returns when these are there. */
static int64_t start_fill(context *c, m7 *s, uint32_t address, uint32_t line, uint32_t place, int write)
{
    int evicted;
    const uint32_t way = cache_fill(&s->data, line * LINE, &evicted);
    c->memory[DATA_LINES]++;
    c->memory[WRITTEN_BACK] += (uint64_t)evicted;
    if (write && place != FLASH && way != 0) {
        s->data.dirty[way - 1] = 1;
    }
    fill *buffer = next_buffer(s);
    int64_t came;
    if (s->rule.line_fill_buffers > 1) { /* latencies overlap, transfers do not */
        came = later(later(s->now, buffer->done) + first_latency(s, place), s->bus_free + 1);
    } else {
        came = later(s->now, s->bus_free) + first_latency(s, place);
    }
    const unsigned first = line == address / LINE ? address >> 3 & 3 : 0;
    for (unsigned step = 0; step < CHUNKS; step++) {
        const unsigned chunk = (first + step) % CHUNKS;
        const int other_half = chunk >> 1 != first >> 1;
        buffer->came[chunk] = place == FLASH ? came + (other_half ? s->rule.flash_second : 0) + (step & 1)
                                             : came + (int64_t)step * s->rule.axi_next;
    }
    buffer->line = line;
    buffer->done = came + rest_of_line(s, place) + (evicted ? s->rule.write_back : 0);
    s->bus_free = buffer->done;
    return came;
}

/* Goes through the data cache; returns the cycle in which the loaded value is there at the earliest. */
static int64_t access_data(context *c, m7 *s, const event *e, const instruction *row, uint32_t place)
{
    const int cause = place == FLASH ? FLASH_DATA : DATA_CACHE;
    const int reads = row->access == READS;
    int64_t value = s->now;
    for (uint32_t line = e->address / LINE; line <= (e->address + row->bytes - 1) / LINE; line++) {
        const uint32_t found = cache_find(&s->data, line * LINE);
        int64_t came = s->now;
        if (found != 0) {
            c->memory[DATA_HITS]++;
            if (!reads && place != FLASH) {
                s->data.dirty[found - 1] = 1;
            }
            const fill *buffer = fill_of(s, line);
            if (buffer != NULL && reads) {
                came = buffer->came[e->address >> 3 & 3];
            }
        } else {
            const int64_t free = next_buffer(s)->done;
            if (reads && s->rule.line_fill_buffers > 1 && free > s->now) {
                add_stall(c, e, cause, free - s->now);
                begin_cycle(s, free);
                s->slot = 1;
            }
            came = start_fill(c, s, e->address, line, place, !reads);
        }
        if (!reads || came <= s->now) {
            continue;
        }
        if (s->rule.line_fill_buffers > 1) {
            value = later(value, came);
        } else {
            add_stall(c, e, cause, came - s->now);
            begin_cycle(s, came);
            s->slot = found == 0 ? 1 : 0;
            value = came;
        }
    }
    return value;
}

static void write_registers(m7 *s, const instruction *row, int64_t value, int more, int late_cause)
{
    const int loads = row->access == READS;
    for (uint64_t left = row->writes; left != 0; left &= left - 1) {
        const int number = __builtin_ctzll(left);
        if ((row->flags & WRITES_BACK) != 0 && (row->addresses >> number & 1) != 0) {
            s->ready[number] = s->now;
            s->cause[number] = DEPENDENCY;
        } else {
            s->ready[number] = later(s->now, value) + row->latency + more;
            const int cause = value > s->now ? late_cause : more ? UNALIGNED : LOAD_USE;
            s->cause[number] = (uint8_t)(loads ? cause : DEPENDENCY);
        }
    }
    if ((row->flags & SETS_FLAGS) != 0) {
        s->flags = s->now + 1;
    }
}

/* What comes behind the instruction: a predicted or mispredicted branch, or instructions whose condition failed. */
static void go_on(context *c, m7 *s, const event *e, instruction *row, uint32_t next)
{
    uint32_t skipped[LONGEST_IT];
    const unsigned count = skipped_rows(c, row, next, skipped);
    const int taken = count == 0 && next != end_of(row);
    if (row->kind == BRANCH && ((row->flags & CONDITIONAL) != 0 || row->reads != 0)) {
        if ((row->predictor >= 2) != taken) {
            c->memory[MISPREDICTED]++;
            add_stall(c, e, BRANCHING, s->rule.mispredict);
            s->now += s->rule.mispredict;
            s->slot = 2;
        }
        if (taken) {
            row->predictor = (uint8_t)(row->predictor + (row->predictor < 3));
        } else {
            row->predictor = (uint8_t)(row->predictor - (row->predictor > 0));
        }
    }
    if (taken) {
        s->slot = 2;
        if (is_branch(row)) {
            add_stall(c, e, BRANCHING, s->rule.taken_bubble);
            s->now += s->rule.taken_bubble;
        }
    }
    for (unsigned number = 0; number < count; number++) {
        if (s->slot >= 2) {
            begin_cycle(s, s->now + 1);
        }
        s->slot++;
        add_skipped(c, skipped[number], e->layer);
    }
}

void mj_m7_step(context *c, const event *e, uint32_t next)
{
    m7 *s = c->core;
    instruction *row = &c->rows[e->row];
    const int64_t before = s->now;
    fetch(c, s, e, row);
    wait_for_operands(c, s, e, row);
    if (!fits(c, s, e, row)) {
        begin_cycle(s, s->now + 1);
    }
    for (uint32_t left = row->unit_mask; left != 0; left &= left - 1) {
        s->used[__builtin_ctz(left)]++;
    }
    c->memory[PAIRS] += ++s->slot == 2;
    if (row->kind == LOAD) {
        s->load = e->address;
        s->has_load = 1;
    }
    int more = 0;
    if (row->kind == LOAD && (e->address & (row->element - 1u)) != 0) {
        c->memory[UNALIGNED_LOADS]++;
        more = s->rule.unaligned;
    }
    int64_t value = s->now;
    uint32_t place = IMMEDIATE;
    if (row->access != NO_ACCESS && s->rule.data_bytes != 0) {
        place = place_of(c, e->address);
        if (is_cached(place)) {
            value = access_data(c, s, e, row, place);
        }
    }
    write_registers(s, row, value, more, place == FLASH ? FLASH_DATA : DATA_CACHE);
    if ((row->flags & ALONE) != 0 || row->occupies > 1) {
        s->now += row->occupies - 1;
        s->slot = 2;
    }
    go_on(c, s, e, row, next);
    add_cycles(c, e, s->now - before);
}
