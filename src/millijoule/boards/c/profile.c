/* Cycles of every layer of one inference, by the core's own counter. Only firmware built with MJ_PROFILE=1 has it; in any
 * other nothing of this file is left. */
#include "mj_firmware.h"

#if MJ_PROFILE
static uint32_t cycles[MJ_LAYER_COUNT], begun;

/* Between the two readings lie, beside the layer, the return from here, its call and the call of this function. */
static void mark(int layer, int end)
{
    if (end) {
        cycles[layer] = mj_cycles() - begun;
    } else {
        begun = mj_cycles();
    }
}

void mj_profile_print(void)
{
    (void)mj_picture_put();
    mj_profile(mark);
    const int failed = mj_infer();
    mj_profile(NULL);
    if (failed != 0) {
        mj_print("e-[The inference failed]\r\n");
        return;
    }
    for (uint32_t layer = 0; layer < MJ_LAYER_COUNT; layer++) {
        mj_print("m-layer-[");
        mj_print_unsigned(layer);
        mj_print(" ");
        mj_print_unsigned(cycles[layer]);
        mj_print(" ");
        mj_print(mj_layer_names[layer]);
        mj_print("]\r\n");
    }
    mj_print("m-layers-[");
    mj_print_unsigned(mj_mail.cycles);
    mj_print("]\r\n");
}
#endif
