/* The golden test on a computer. SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "golden.h"
#include "mj_model.h"

int main(void)
{
    int compared = 0;
    const int started = mj_init(), failures = golden_failures(&compared);
    printf("self-test: %s\n", started == MJ_OK ? "pass" : "FAIL");
    printf("golden: %d of %d logits are wrong\n", failures, compared);
    return started != MJ_OK || failures != 0;
}
