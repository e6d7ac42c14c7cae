/* Tag store of a cache: set associative, least recently used, lines divided into sectors that are filled one by one. */
#ifndef MJ_MEMORY_H
#define MJ_MEMORY_H

#include <stdint.h>

enum { CACHE_LINES = 512 };

typedef struct {
    uint32_t sets, ways, line_bytes, sector_bytes; /* all zero: no cache, every access misses */
    uint64_t tick;
    uint32_t tag[CACHE_LINES];
    uint32_t valid[CACHE_LINES]; /* bits of the sectors that are there; 0: the way is empty */
    uint64_t used[CACHE_LINES];
    uint8_t dirty[CACHE_LINES];
} cache;

static inline void cache_configure(cache *c, uint32_t lines, uint32_t ways, uint32_t line_bytes, uint32_t sector_bytes)
{
    c->sets = lines == 0 ? 0 : lines / ways;
    c->ways = ways;
    c->line_bytes = line_bytes;
    c->sector_bytes = sector_bytes;
}

/* The place of the sector with this address plus 1, 0 where it is missing. A hit counts as a use. */
static inline uint32_t cache_find(cache *c, uint32_t address)
{
    if (c->sets == 0) {
        return 0;
    }
    const uint32_t line = address / c->line_bytes;
    const uint32_t first = line % c->sets * c->ways;
    const uint32_t sector = 1u << (address % c->line_bytes / c->sector_bytes);
    for (uint32_t way = first; way < first + c->ways; way++) {
        if (c->tag[way] == line && (c->valid[way] & sector) != 0) {
            c->used[way] = ++c->tick;
            return way + 1;
        }
    }
    return 0;
}

/* Takes the sector in, in place of the line unused for longest; returns its place plus 1. `*evicted` tells whether a
 * dirty line had to go. */
static inline uint32_t cache_fill(cache *c, uint32_t address, int *evicted)
{
    *evicted = 0;
    if (c->sets == 0) {
        return 0;
    }
    const uint32_t line = address / c->line_bytes;
    const uint32_t first = line % c->sets * c->ways;
    const uint32_t sector = 1u << (address % c->line_bytes / c->sector_bytes);
    uint32_t victim = first;
    for (uint32_t way = first; way < first + c->ways; way++) {
        if (c->valid[way] != 0 && c->tag[way] == line) {
            c->valid[way] |= sector;
            c->used[way] = ++c->tick;
            return way + 1;
        }
        if (c->valid[victim] != 0 && (c->valid[way] == 0 || c->used[way] < c->used[victim])) {
            victim = way;
        }
    }
    *evicted = c->valid[victim] != 0 && c->dirty[victim];
    c->tag[victim] = line;
    c->valid[victim] = sector;
    c->dirty[victim] = 0;
    c->used[victim] = ++c->tick;
    return victim + 1;
}

#endif
