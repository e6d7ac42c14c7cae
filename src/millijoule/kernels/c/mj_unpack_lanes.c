#include "mj_unpack.h"

#include "mj_dsp.h"

typedef struct {
    uint32_t nibbles, eights;
    int32_t left, right;
} places;

static inline void two(uint32_t packed, uint32_t *words, const places *p)
{
    words[0] = mj_ssub16(packed << p->left & p->nibbles, p->eights);
    words[1] = mj_ssub16(packed >> p->right & p->nibbles, p->eights);
}

void mj_unpack_lanes(const uint32_t *packed, uint32_t *words, int32_t rows, int32_t depth, int32_t up)
{
    const places p = {0x0F0F0F0Fu << up, 0x08080808u << up, up, 4 - up};
    if (depth % 2 == 0) { /* no row ends inside a word */
        depth *= rows;
        rows = 1;
    }
    for (; rows > 0; --rows) {
        int32_t left = depth;
        for (; left >= 8; left -= 8, packed += 4, words += 8) {
            const uint32_t a = packed[0], b = packed[1], c = packed[2], d = packed[3];
            two(a, words, &p);
            two(b, words + 2, &p);
            two(c, words + 4, &p);
            two(d, words + 6, &p);
        }
        for (; left >= 2; left -= 2, ++packed, words += 2) {
            two(*packed, words, &p);
        }
        if (left != 0) {
            *words++ = mj_ssub16(*packed++ << up & p.nibbles, p.eights);
        }
    }
}
