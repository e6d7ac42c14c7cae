/* Finds accesses that the emulator library lets pass and a chip does not: reads of RAM that nothing has written (one
 * shadow byte per byte of RAM), and misaligned accesses that raise a fault. Called by the library before every executed
 * instruction; instructions whose condition fails do not come here. */
#include <stdint.h>

enum { WINDOWS = 16, FOUND = 256, NONE = 255, PROGRAM_COUNTER = 15, READS = 1, WRITES = 2, KNOWN = 128 };
enum { UNWRITTEN = 0, MISALIGNED = 1 };

/* How an instruction reaches memory: base + (index << shift) + displacement. Mirrored in access.py. */
typedef struct {
    int32_t displacement;
    uint8_t access, base, index, shift, bytes, table; /* access 0: not seen yet; KNOWN: decoded */
    uint8_t element, strict; /* bytes of one element; strict: it must be aligned in any memory */
} operand;

typedef struct {
    uint32_t instruction, address, bytes, kind;
    uint64_t count;
} finding;

typedef struct {
    uint64_t codes, code_base[WINDOWS], code_span[WINDOWS];
    operand *operands[WINDOWS];
    uint64_t rams, ram_base[WINDOWS], ram_span[WINDOWS];
    uint8_t *written[WINDOWS];
    int (*read_register)(void *emulator, int number, void *value);
    int (*stop)(void *emulator);
    int (*decode)(uint32_t address, uint32_t size); /* fills the operand of an instruction; nonzero: give up */
    uint64_t register_number[16];
    uint64_t failed, count, lost;
    /* delivers: stop before a misaligned access; every_one: all must be aligned (CCR.UNALIGN_TRP); stopped_at: address
     * of the instruction plus 1, 0 for none. */
    uint64_t delivers, every_one, stopped_at;
    finding found[FOUND];
} context;

void mj_access_code(void *emulator, uint64_t address, uint32_t size, void *user);
uint64_t mj_access_size(void);

static void record(context *c, uint32_t kind, uint32_t instruction, uint32_t address, uint32_t bytes)
{
    uint64_t slot = 0;
    while (slot < c->count && (c->found[slot].instruction != instruction || c->found[slot].kind != kind)) {
        slot++;
    }
    if (slot == FOUND) {
        c->lost++;
        return;
    }
    if (slot == c->count) {
        c->count++;
        c->found[slot].instruction = instruction;
        c->found[slot].address = address;
        c->found[slot].bytes = bytes;
        c->found[slot].kind = kind;
    }
    c->found[slot].count++;
}

/* Armv7-M Architecture Reference Manual, A3.2.1 and B3.1: several words at once, doubles, floats and exclusive accesses
 * must be aligned, and so must every access to device memory (peripherals, system). */
static int must_be_aligned(const operand *o, uint32_t address)
{
    return o->strict || (address >= 0x40000000u && address < 0x60000000u) || address >= 0xA0000000u;
}

static void touch(context *c, const operand *o, uint32_t instruction, uint32_t address)
{
    for (uint64_t ram = 0; ram < c->rams; ram++) {
        const uint64_t offset = address - c->ram_base[ram];
        if (offset >= c->ram_span[ram] || offset + o->bytes > c->ram_span[ram]) {
            continue;
        }
        uint8_t *shadow = c->written[ram] + offset;
        if (o->access & WRITES) {
            for (uint32_t byte = 0; byte < o->bytes; byte++) {
                shadow[byte] = 1;
            }
        } else {
            for (uint32_t byte = 0; byte < o->bytes; byte++) {
                if (!shadow[byte]) {
                    record(c, UNWRITTEN, instruction, address + byte, o->bytes);
                    break;
                }
            }
        }
        return;
    }
}

void mj_access_code(void *emulator, uint64_t address, uint32_t size, void *user)
{
    context *c = user;
    uint64_t window = 0;
    while (window < c->codes && address - c->code_base[window] >= c->code_span[window]) {
        window++;
    }
    if (c->failed || window == c->codes) {
        return;
    }
    const operand *o = &c->operands[window][(address - c->code_base[window]) >> 1];
    if (o->access == 0 && c->decode((uint32_t)address, size) != 0) {
        c->failed = 1;
        c->stop(emulator);
        return;
    }
    if ((o->access & (READS | WRITES)) == 0) {
        return;
    }
    uint32_t base = (uint32_t)address + 4u, index = 0;
    if (o->base != PROGRAM_COUNTER) {
        c->read_register(emulator, (int)c->register_number[o->base], &base);
    } else if (!o->table) {
        base &= ~3u;
    }
    if (o->index != NONE) {
        c->read_register(emulator, (int)c->register_number[o->index], &index);
        index <<= o->shift;
    }
    const uint32_t place = base + index + (uint32_t)o->displacement;
    if (place % o->element != 0 && (c->every_one || must_be_aligned(o, place))) {
        record(c, MISALIGNED, (uint32_t)address, place, o->bytes);
        if (c->delivers) {
            c->stopped_at = address + 1;
            c->stop(emulator);
            return;
        }
    }
    touch(c, o, (uint32_t)address, place);
}

uint64_t mj_access_size(void)
{
    return sizeof(context);
}
