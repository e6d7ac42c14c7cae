/* SPDX-License-Identifier: Apache-2.0 */
#include "golden.h"

#include "golden_logits.h"
#include "mj_model.h"

/* Noise from x = 1664525 x + 1013904223 mod 2^32 (Numerical Recipes, chapter 7): byte i is the top byte of state i. */
static void draw(uint32_t state)
{
    for (uint32_t index = 0; index < MJ_INPUT_BYTES; index++) {
        state = 1664525u * state + 1013904223u;
        MJ_INPUT[index] = (uint8_t)(state >> 24);
    }
}

int golden_failures(int *compared)
{
    *compared = GOLDEN_PICTURES * MJ_CLASSES;
    int failures = 0;
    for (int picture = 0; picture < GOLDEN_PICTURES; picture++) {
        mj_result result;
        draw(golden_seeds[picture]);
        if (mj_run(&result) != MJ_OK) {
            failures += MJ_CLASSES;
            continue;
        }
        const golden_logit *logits = result.logits, *expected = golden_logits[picture];
        for (int index = 0; index < MJ_CLASSES; index++) {
            /* written so that a float which is not a number fails */
            const int near = logits[index] >= expected[index] - GOLDEN_TOLERANCE &&
                             logits[index] <= expected[index] + GOLDEN_TOLERANCE;
            failures += !near;
        }
    }
    return failures;
}
