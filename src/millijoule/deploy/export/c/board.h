/* The board in one call. Everything else it offers is in mj_board.h. SPDX-License-Identifier: Apache-2.0 */
#ifndef MJ_BOARD_START_H
#define MJ_BOARD_START_H
#include "mj_board.h"

/* Full clock speed, caches on, serial line and cycle counter running. Call it once, first of all. */
void mj_board_start(void);

#endif
