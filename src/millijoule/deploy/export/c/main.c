/* A picture in over the serial line, the name of its class out. SPDX-License-Identifier: Apache-2.0 */
#include "board.h"
#include "mj_model.h"

int main(void)
{
    mj_board_start(); /* clock, caches, serial line */
    mj_print(mj_init() == MJ_OK ? "ready\r\n" : "self-test failed\r\n");
    for (;;) {
        mj_result result;
        for (uint32_t index = 0; index < MJ_INPUT_BYTES; index++) {
            MJ_INPUT[index] = (uint8_t)mj_console_get(); /* rows from top to bottom, see mj_model.h */
        }
        mj_run(&result);
        mj_print(mj_class_names[result.class_index]);
        mj_print("\r\n");
    }
}
