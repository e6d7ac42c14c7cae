/* Between main.c and command.c. */
#ifndef MJ_FIRMWARE_H
#define MJ_FIRMWARE_H
#include "mj_board.h"
#include "mj_model.h"

/* Errors of the firmware itself, beside the model's mj_status. */
enum { MJ_FIRMWARE_STACK = -102, MJ_FIRMWARE_FENCE = -103 };

extern mj_result mj_last;                  /* the last inference */
int mj_infer(void);                        /* runs the picture in MJ_INPUT; 0 or an error */
void mj_command_character(char character); /* feeds the command parser; never blocks for input */

#endif
