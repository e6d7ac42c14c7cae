/* SPDX-License-Identifier: Apache-2.0 */
#include "board.h"

/* The fault report leaves its verdict here for a debug probe. */
volatile mj_mailbox mj_mail;

void mj_board_start(void)
{
    mj_console_start(mj_clock_start(), MJ_CONSOLE_BAUD);
    mj_cycles_start();
}
