/* Dense layers on packed lanes: two output features in one 16-bit lane, as in the products of mj_rows.h.
 *
 * x: words of two int16, `depth` of them (a multiple of 4); by fours numbers 0, 2, 1, 3. Weights: lanes in that order,
 * read once and in sequence. Two pairs of features go together: word i of the first pair, word i of the second one,
 * i = 0 .. depth - 1; a pair that is left over at the end has its words to itself. Sums lie in [-2^23, 2^23).
 *
 * Requantisation of mj_pair here, by the rounding rule; shift 1 to 22 (mulhi: 0):
 *   single  v = (((sum * multiplier) >> 32) + addend) >> shift, addend = (2 * zero + 1) << (shift - 1)
 *   double  v = (((2 * sum * multiplier + 2^31) >> 32) + addend - (sum < 0)) >> shift, the same addend
 *   mulhi   v = ((sum * multiplier + 2^31) >> 32) + addend, addend = zero
 */
#ifndef MJ_DENSE_H
#define MJ_DENSE_H

#include "mj_rows.h"

typedef struct {
    const uint32_t *x;
    const uint32_t *weights;
    const mj_pair *pairs;
    int8_t *y;
    int32_t depth;     /* words, a multiple of 4, at least 4 */
    int32_t features;  /* results, at least 1; no more are written */
    int32_t low, high; /* bounds of the results, within int8 */
} mj_dense;

/* all features; assembler text on the cores */
void mj_dense_lanes(const mj_dense *dense);

#endif
