"""C text of a model whose picture comes row by row and is stored nowhere: `mj_begin`, `mj_push_row`, `mj_finish`.

`mj_run` stays for firmware that has a whole picture; it reads `mj_frame`, an array that lies in a file of its own, so
that the linker leaves it out where nothing asks for it.
"""

from __future__ import annotations

from textwrap import indent

from millijoule.compile.emission import Emission, title
from millijoule.compile.lower import Call
from millijoule.compile.schedule import Step

__all__ = ["DECLARATIONS", "FEED", "first_layer", "frame_source", "run"]

DECLARATIONS = """\
/* The picture in rows of MJ_INPUT_WIDTH * MJ_INPUT_CHANNELS bytes: mj_begin, mj_push_row for each row from top to
 * bottom, mj_finish. No row is needed once mj_push_row has returned. mj_finish returns an mj_status. */
void mj_begin(void);
void mj_push_row(const uint8_t *row);
int mj_finish(mj_result *result);
/* A place for a whole picture, for mj_run; firmware that uses neither does not contain it. */
extern uint8_t mj_frame[MJ_INPUT_BYTES];
"""
FEED = """\
    mj_begin();
    for (int32_t y = 0; y < MJ_INPUT_HEIGHT; ++y) {
        uint8_t row[MJ_INPUT_WIDTH * MJ_INPUT_CHANNELS];
        for (uint32_t i = 0; i < sizeof row; ++i) {
            state = 1664525u * state + 1013904223u;
            row[i] = (uint8_t)(state >> 24);
        }
        mj_push_row(row);
    }
    mj_result result;
    (void)mj_finish(&result);
"""
"""The golden picture, row by row."""


def first_layer(step: Step, call: Call, note: str, structures: str, copies: str, behind: str = "") -> str:
    """The layer that reads the picture, in parts.

    Args:
        step: the layer.
        call: its call of the row engine.
        note: the comment above it.
        structures: its parameters.
        copies: statements that copy its weights.
        behind: parameters and calls of what follows its last row.
    """
    end = f"    if (row == NULL) {{ /* behind the last row */\n{indent(behind, '    ')}    }}\n" if behind else ""
    return f"""{note}
static const mj_rows *first_layer(void)
{{
{structures}    return &rows;
}}

MJ_LAYER {step.symbol}(const uint8_t *row, int32_t count)
{{
    for (; count > 0; --count, row += MJ_INPUT_WIDTH * MJ_INPUT_CHANNELS) {{
        mj_rows_push(row, first_layer());
    }}
{end}}}

void mj_begin(void)
{{
{copies}    mj_rows_begin({call.arguments[1]}, first_layer());
}}

void mj_push_row(const uint8_t *row)
{{
    {step.symbol}(row, 1);
}}
"""


def run(step: Step, call: Call, loop: str, record: str) -> str:
    """`mj_finish` and `mj_run`.

    Args:
        step: the layer that reads the picture.
        call: its call of the row engine.
        loop: statements that run the other layers and fill the result.
        record: a statement that keeps the checksum of layer `layer`, or nothing.
    """
    end = f"    {step.symbol}(NULL, 0);\n" if call.then is not None else ""
    kept = f"    {{\n        const int layer = 0;\n{record}    }}\n" if record else ""
    return f"""int mj_finish(mj_result *result)
{{
    if (result == NULL) {{
        return MJ_ERROR_ARGUMENT;
    }}
    mj_rows_end(first_layer());
{end}{kept}{loop}    return MJ_OK;
}}

int mj_run(mj_result *result)
{{
    if (result == NULL) {{
        return MJ_ERROR_ARGUMENT;
    }}
    mj_begin();
    if (profile_hook != NULL) {{
        profile_hook(0, 0);
    }}
    {step.symbol}(mj_frame, MJ_INPUT_HEIGHT);
    if (profile_hook != NULL) {{
        profile_hook(0, 1);
    }}
    return mj_finish(result);
}}
"""


def frame_source(emission: Emission) -> str:
    """The text of `mj_frame.c`."""
    return f"""{title(emission, "a place for a whole picture, for mj_run")}
#include "mj_model.h"

#if defined(MJ_FRAME)
/* The build says where the picture lies; -DMJ_FRAME= leaves it in .bss. */
#elif defined(__ELF__)
#define MJ_FRAME __attribute__((section(".mj_arena.frame")))
#else
#define MJ_FRAME
#endif

MJ_FRAME _Alignas(16) uint8_t mj_frame[MJ_INPUT_BYTES];
"""
