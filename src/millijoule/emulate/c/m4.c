/* Cortex-M4F in front of the flash interface of the STM32L4+: one step per executed instruction.
 * The rules and their sources are in cortex_m4.py. Time is counted in cycles of the core from the start of the trace.
 */
#include "trace.h"

#include "memory.h"

#include <stdlib.h>

#define RULES(X)                                                                                                  \
    X(address_from_alu) X(float_dependency) X(fold_it) X(unaligned_halfwords)                \
    X(unaligned_bytes) X(fetch_words) X(fetch_release) X(sram3_wait) X(wait_states) X(line_bytes) X(prefetch)     \
    X(prefetch_on_hit) X(prefetch_fills_cache) X(prefetch_abort) X(instruction_lines) X(instruction_line_bytes)   \
    X(data_lines) X(data_line_bytes)
#define MEMBER(name) int32_t name;
#define NAME(name) #name " "

typedef struct {
    RULES(MEMBER)
} rules;

const char mj_m4_rules[] = RULES(NAME);
const char mj_m4_memory[] = "lines_from_cache lines_from_prefetch lines_from_flash data_hits data_misses unaligned ";

enum { LINES_FROM_CACHE, LINES_FROM_PREFETCH, LINES_FROM_FLASH, DATA_HITS, DATA_MISSES, UNALIGNED_ACCESSES };
enum { WORDS = 8, NEVER = -1000 };

#define NO_LINE 0xFFFFFFFFu

typedef struct {
    rules rule;
    int64_t now;
    int64_t port_free;          /* when the flash can begin another read */
    uint32_t line, fetched_line; /* the line the core fetches from; the one in the prefetch buffer */
    int64_t fetched_at;
    /* Fetch of the words of the code: the next one, when the last one came, when each came, when each was used. */
    uint32_t word;
    int64_t last_fetch, came[WORDS], consumed[WORDS];
    uint32_t expected; /* address of the next instruction unless control jumps */
    int64_t target_time;
    uint32_t before; /* row + 1 of the instruction before, 0 after a jump */
    cache instructions, data;
} m4;

void *mj_m4_new(context *c);

void *mj_m4_new(context *c)
{
    m4 *s = calloc(1, sizeof *s);
    if (s == NULL) {
        return NULL;
    }
    const int32_t *values = c->rules;
#define TAKE(name) s->rule.name = *values++;
    RULES(TAKE)
    const rules *r = &s->rule;
    cache_configure(&s->instructions, (uint32_t)r->instruction_lines, (uint32_t)r->instruction_lines,
                    (uint32_t)r->instruction_line_bytes, (uint32_t)r->line_bytes);
    cache_configure(&s->data, (uint32_t)r->data_lines, (uint32_t)r->data_lines, (uint32_t)r->data_line_bytes,
                    (uint32_t)r->line_bytes);
    s->line = s->fetched_line = NO_LINE;
    s->expected = NO_LINE;
    return s;
}

static int64_t later(int64_t one, int64_t other)
{
    return one > other ? one : other;
}

static void start_prefetch(m4 *s, uint32_t line, int64_t time)
{
    if (!s->rule.prefetch || cache_find(&s->instructions, line * (uint32_t)s->rule.line_bytes) != 0) {
        return;
    }
    s->fetched_line = line;
    s->fetched_at = later(time, s->port_free) + s->rule.wait_states + 1;
    s->port_free = s->fetched_at;
}

/* The core asks at `time` for a word of code in flash: when does it get it? */
static int64_t fetch_line(context *c, m4 *s, uint32_t address, int64_t time)
{
    const rules *r = &s->rule;
    const uint32_t line = address / (uint32_t)r->line_bytes;
    int evicted;
    if (line == s->line) {
        return time;
    }
    s->line = line;
    if (line == s->fetched_line) {
        c->memory[LINES_FROM_PREFETCH]++;
        const int64_t came = later(time, s->fetched_at);
        s->fetched_line = NO_LINE;
        if (r->prefetch_fills_cache) {
            cache_fill(&s->instructions, address, &evicted);
        }
        start_prefetch(s, line + 1, came);
        return came;
    }
    if (cache_find(&s->instructions, address) != 0) {
        c->memory[LINES_FROM_CACHE]++;
        if (r->prefetch_on_hit) {
            start_prefetch(s, line + 1, time);
        }
        return time;
    }
    c->memory[LINES_FROM_FLASH]++;
    const int waits = s->port_free > time && !(r->prefetch_abort && s->fetched_line != NO_LINE);
    const int64_t came = (waits ? s->port_free : time) + r->wait_states;
    s->port_free = came;
    s->fetched_line = NO_LINE;
    cache_fill(&s->instructions, address, &evicted);
    start_prefetch(s, line + 1, came);
    return came;
}

/* Fetches words up to `last`; returns whether one of them had to be waited for longer than a word's cycle. */
static int fetch_words(context *c, m4 *s, const instruction *row, uint32_t last, int throttle)
{
    int waited = 0;
    for (; s->word <= last; s->word++) {
        int64_t time = s->last_fetch + 1;
        if (throttle) {
            const int64_t used = s->consumed[(s->word - (uint32_t)s->rule.fetch_words) % WORDS];
            time = later(time, used + s->rule.fetch_release);
        }
        const int64_t came = row->place == FLASH ? fetch_line(c, s, s->word << 2, time) : time;
        waited |= came > time;
        s->last_fetch = s->came[s->word % WORDS] = came;
    }
    return waited;
}

/* Words of data in flash: from the data cache, or through the port that instructions use, too. */
static int64_t read_flash(context *c, m4 *s, uint32_t address, uint32_t bytes, int64_t time)
{
    for (uint32_t word = address & ~3u; word < address + bytes; word += 4) {
        if (cache_find(&s->data, word) != 0) {
            c->memory[DATA_HITS]++;
            continue;
        }
        int evicted;
        c->memory[DATA_MISSES]++;
        time = later(time, s->port_free) + s->rule.wait_states;
        s->port_free = time;
        cache_fill(&s->data, word, &evicted);
    }
    return time;
}

/* Cycles of the pipeline, zero wait states, without the refill of a branch. */
static int64_t cost_of(context *c, m4 *s, const event *e, const instruction *row)
{
    const instruction *before = s->before != 0 ? &c->rows[s->before - 1] : NULL;
    if (row->kind == IT) {
        return s->rule.fold_it && before != NULL && before->size == 2 ? 0 : 1;
    }
    int64_t cost = row->cycles;
    int alone = 1; /* a load that no load before it hides */
    if (before != NULL && (before->flags & LOADS_ONE) != 0 && (row->flags & OVERLAPS) != 0) {
        const uint64_t base = (before->flags & WRITES_BACK) != 0 ? before->addresses : 0;
        if ((row->addresses & before->writes & ~base) == 0) {
            cost--;
            alone = 0;
        }
    }
    if ((row->flags & LOADS_ONE) != 0 && alone) {
        add_stall(c, e, LOAD_USE, 1);
    }
    if (before != NULL && (before->flags & COMPUTES) != 0 && (row->early & before->writes) != 0) {
        cost += s->rule.address_from_alu;
        add_stall(c, e, DEPENDENCY, s->rule.address_from_alu);
    }
    if (before != NULL && row->kind == FLOAT && (before->kind == FLOAT || before->kind == FLOAT_MULTIPLY_ADD) &&
        (row->reads & before->writes) != 0) {
        cost += s->rule.float_dependency;
        add_stall(c, e, DEPENDENCY, s->rule.float_dependency);
    }
    if (row->kind == LOAD && (e->address & (row->element - 1u)) != 0) {
        const int odd_word = row->element == 4 && (e->address & 1) != 0;
        const int more = odd_word ? s->rule.unaligned_bytes : s->rule.unaligned_halfwords;
        c->memory[UNALIGNED_ACCESSES]++;
        cost += more;
        add_stall(c, e, UNALIGNED, more);
    }
    if (row->access != NO_ACCESS && s->rule.sram3_wait != 0 && place_of(c, e->address) == SLOW) {
        const int64_t more = s->rule.sram3_wait * ((row->bytes + 3) / 4);
        cost += more;
        add_stall(c, e, BANK, more);
    }
    return cost;
}

void mj_m4_step(context *c, const event *e, uint32_t next)
{
    m4 *s = c->core;
    const instruction *row = &c->rows[e->row];
    const uint32_t first = row->address >> 2, last = (end_of(row) - 1) >> 2;
    const int jumped = row->address != s->expected;
    if (jumped) {
        s->word = first;
        s->last_fetch = s->target_time - 1;
        for (unsigned word = 0; word < WORDS; word++) {
            s->consumed[word] = NEVER;
        }
        s->before = 0;
    }
    const int waited = fetch_words(c, s, row, last, 1);
    int64_t start = s->now;
    if (s->came[last % WORDS] > start) {
        /* Behind a jump, a word that follows at once is the second half of an instruction across two words. */
        const int in_flash = row->place == FLASH && (waited || !jumped);
        add_stall(c, e, in_flash ? FLASH_FETCH : BRANCHING, s->came[last % WORDS] - start);
        start = s->came[last % WORDS];
    }
    int64_t end = start + cost_of(c, s, e, row);
    if (row->access == READS && place_of(c, e->address) == FLASH) {
        const int64_t came = read_flash(c, s, e->address, row->bytes, end);
        add_stall(c, e, FLASH_DATA, came - end);
        end = came;
    }
    for (uint32_t word = first; word <= last; word++) {
        s->consumed[word % WORDS] = start;
    }
    uint32_t skipped[LONGEST_IT];
    const unsigned count = skipped_rows(c, row, next, skipped);
    s->expected = end_of(row);
    if (count > 0) {
        for (unsigned number = 0; number < count; number++) {
            add_skipped(c, skipped[number], e->layer);
            end++;
        }
        fetch_words(c, s, row, (next - 1) >> 2, 0);
        if (s->last_fetch > end) {
            add_stall(c, e, row->place == FLASH ? FLASH_FETCH : BRANCHING, s->last_fetch - end);
            end = s->last_fetch;
        }
        s->expected = next;
        s->before = 0;
    } else if (next != end_of(row)) {
        if (is_branch(row)) {
            add_stall(c, e, BRANCHING, row->refill);
            end += row->refill;
        }
        s->target_time = end;
        s->expected = NO_LINE;
        s->before = 0;
    } else if (row->kind != IT) {
        s->before = e->row + 1;
    }
    add_cycles(c, e, end - s->now);
    s->now = end;
}
