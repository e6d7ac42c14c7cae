/* Between main.c, command.c, picture.c and profile.c. */
#ifndef MJ_FIRMWARE_H
#define MJ_FIRMWARE_H
#include "mj_board.h"
#include "mj_model.h"

/* Errors of the firmware itself, beside the model's mj_status. */
enum { MJ_FIRMWARE_STACK = -102, MJ_FIRMWARE_FENCE = -103 };

/* 1: the board starts in energy mode (9600 baud, edges instead of numbers), as the official runner expects it there. */
#ifndef MJ_ENERGY_MODE
#define MJ_ENERGY_MODE 0
#endif
enum { MJ_ENERGY_BAUD = 9600 };

/* 1: the command "profile layers" times every layer (profile.c). */
#ifndef MJ_PROFILE
#define MJ_PROFILE 0
#endif

extern mj_result mj_last;                  /* the last inference */
int mj_infer(void);                        /* runs the picture in MJ_INPUT; 0 or an error */
void mj_command_character(char character); /* feeds the command parser; never blocks for input */
void mj_command_mode(void);                /* prints the mode of the timestamps */

/* profile.c, with MJ_PROFILE only: runs one inference, prints the cycles of each layer and of all of mj_run */
void mj_profile_print(void);

/* picture.c */
typedef enum {
    MJ_PICTURE_NONE,
    MJ_PICTURE_INCOMPLETE,
    MJ_PICTURE_OVERWRITTEN, /* by an inference, and there is no RAM for a copy */
    MJ_PICTURE_WHOLE
} mj_picture_state;
void mj_picture_start(void);
const uint8_t *mj_picture_copy(void);        /* where the copy lies, NULL without one */
int mj_picture_expect(uint32_t count);       /* 0 when count is not 1..MJ_INPUT_BYTES */
uint32_t mj_picture_missing(void);           /* bytes still to come */
void mj_picture_add(uint8_t byte);
const uint8_t *mj_picture_bytes(uint32_t *count); /* what has been loaded */
mj_picture_state mj_picture_check(void);
int mj_picture_put(void);                    /* picture to MJ_INPUT; 0 when the memory holds something else by now */
void mj_picture_spoil(void);                 /* MJ_INPUT was written by somebody else */

#endif
