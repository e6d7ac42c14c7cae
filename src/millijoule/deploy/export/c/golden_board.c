/* The golden test on the board; the verdict goes to the serial line. SPDX-License-Identifier: Apache-2.0 */
#include "board.h"
#include "golden.h"
#include "mj_model.h"

int main(void)
{
    mj_board_start();
    int compared = 0;
    const int started = mj_init(), failures = golden_failures(&compared);
    mj_print(started == MJ_OK && failures == 0 ? "golden: pass\r\n" : "golden: FAIL, logits wrong: ");
    if (started != MJ_OK || failures != 0) {
        mj_print_integer(failures);
        mj_print("\r\n");
    }
    mj_halt();
    return 0;
}
