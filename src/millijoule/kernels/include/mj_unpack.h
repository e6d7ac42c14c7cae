/* Weights of 4 bits in flash: eight in a word, unpacked to the lanes of mj_rows.h before they are read.
 *
 * The four weights of a word of lanes, each plus 8, are the low halves of the bytes of a packed word; the high halves are
 * those of the next word of lanes. Lane by lane 256 * (b + 8) + (a + 8) has no borrow, so taking 0x0808 away from both
 * lanes of a word gives 256 * b + a: six instructions for eight weights, LDR and STRD aside. The shifts that bring nibbles
 * to their place may as well bring them further up: all weights times 2^up, for layers whose requantisation needs larger
 * sums (compile/legal.py); 8 * 2^3 still has no borrow.
 * A row (a pair of channels) of odd depth is filled up to an even one, so that each begins with a word.
 */
#ifndef MJ_UNPACK_H
#define MJ_UNPACK_H

#include <stdint.h>

/* packed words of a row of `depth` words of lanes */
static inline int32_t mj_packed_words(int32_t depth)
{
    return (depth + 1) / 2;
}

/* `rows` rows of `depth` words of lanes, at least 1 each, one behind the other; up is 0 to 3 */
void mj_unpack_lanes(const uint32_t *packed, uint32_t *words, int32_t rows, int32_t depth, int32_t up);

#endif
