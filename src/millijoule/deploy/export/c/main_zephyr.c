/* A picture in over the console's serial line, the name of its class out. SPDX-License-Identifier: Apache-2.0 */
#include <zephyr/device.h>
#include <zephyr/drivers/uart.h>
#include <zephyr/kernel.h>

#include "mj_model.h"

int main(void)
{
    const struct device *const line = DEVICE_DT_GET(DT_CHOSEN(zephyr_console));
    printk(mj_init() == MJ_OK ? "ready\n" : "self-test failed\n");
    for (;;) {
        mj_result result;
        for (uint32_t index = 0; index < MJ_INPUT_BYTES;) {
            index += uart_poll_in(line, MJ_INPUT + index) == 0; /* rows from top to bottom, see mj_model.h */
        }
        mj_run(&result);
        printk("%s\n", mj_class_names[result.class_index]);
    }
}
