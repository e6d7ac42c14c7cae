"""The text of `mj_model.h`: what firmware needs to know to call a model."""

from __future__ import annotations

from millijoule.compile._text import float_literal, note, string_literal
from millijoule.compile.emission import Emission, block_bytes, defines, title
from millijoule.compile.emit_stream import DECLARATIONS

__all__ = ["model_header"]


def model_header(emission: Emission) -> str:
    """The whole file."""
    picture, logits = emission.graph.tensor(emission.graph.inputs[0]), emission.logits
    _, height, width, channels = picture.shape
    is_float = logits.dtype == "float32"
    colour = note(emission.graph.picture.colour).upper()
    sizes = defines(
        {
            "MJ_MODEL_NAME": string_literal(emission.graph.name),
            "MJ_INPUT_HEIGHT": height,
            "MJ_INPUT_WIDTH": width,
            "MJ_INPUT_CHANNELS": channels,
            "MJ_INPUT_BYTES": picture.bytes,
            **_input(emission),
            "MJ_CLASSES": logits.elements,
            "MJ_ARENA_BYTES": emission.plan.arena_bytes,
            "MJ_FAST_BYTES": emission.plan.fast_bytes,
            "MJ_WEIGHT_BYTES": sum(block_bytes(call) for call in emission.calls),
            "MJ_LAYER_COUNT": len(emission.schedule.steps),
            "MJ_LOGIT_IS_FLOAT": int(is_float),
            "MJ_LOGIT_SCALE": "1.0f" if logits.quant is None else float_literal(logits.quant.scalar_scale),
            "MJ_LOGIT_ZERO_POINT": "0" if logits.quant is None else f"({logits.quant.scalar_zero_point})",
        }
    )
    kind = "float" if is_float else "int8_t, value = MJ_LOGIT_SCALE * (stored - MJ_LOGIT_ZERO_POINT)"
    return f"""{title(emission, "an image classifier for microcontrollers")}
#ifndef MJ_MODEL_H
#define MJ_MODEL_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

{sizes}

typedef enum {{
    MJ_OK = 0,
    MJ_ERROR_SELF_TEST = 1, /* the golden picture gave other logits: wrong build, broken flash or broken memory */
    MJ_ERROR_ARGUMENT = 2,  /* no place for the result */
    MJ_ERROR_WEIGHTS = 3    /* the checksum of the constants is wrong: broken or half-written flash */
}} mj_status;

typedef struct {{
    const void *logits;        /* MJ_CLASSES x {kind} */
    const void *probabilities; /* MJ_CLASSES x {_probability_note(emission)} */
    int32_t class_index;       /* of the largest logit, the lowest index on ties */
}} mj_result;

/* All memory of the model: MJ_ARENA_BYTES, of which MJ_FAST_BYTES are for the fastest RAM that the target has. Results
 * point into it and last until MJ_INPUT is written or mj_run is called again. */
extern uint8_t mj_arena[MJ_ARENA_BYTES - MJ_FAST_BYTES];
{_fast_declaration(emission)}extern const char *const mj_layer_names[MJ_LAYER_COUNT];
extern const char *const mj_class_names[MJ_CLASSES];
{_trace_declaration(emission)}
/* Compares the checksum of the constants, runs the golden picture (unless both were left out) and returns an mj_status.
 * Call it once. */
int mj_init(void);
/* Classifies the picture at MJ_INPUT: MJ_INPUT_BYTES bytes, rows from top to bottom, {colour} interleaved. The
 * picture is overwritten: write it again before each call. Returns an mj_status. */
int mj_run(mj_result *result);
/* From now on `hook` is called with end = 0 before and end = 1 after each layer; a null pointer turns it off. */
void mj_profile(void (*hook)(int layer, int end));
{DECLARATIONS if emission.streamed else ""}
#ifdef __cplusplus
}}
#endif

#endif
"""


def _input(emission: Emission) -> dict[str, str | int]:
    """Where a whole picture goes."""
    if emission.streamed:
        return {"MJ_INPUT": "mj_frame"}
    return {
        "MJ_INPUT_OFFSET": emission.offset(emission.graph.inputs[0]),
        "MJ_INPUT": "(mj_arena + MJ_INPUT_OFFSET)",
    }


def _fast_declaration(emission: Emission) -> str:
    return "extern uint8_t mj_fast[MJ_FAST_BYTES];\n" if emission.plan.fast_bytes else ""


def _probability_note(emission: Emission) -> str:
    if len(emission.graph.outputs) < 2:
        return "none: this model ends with the logits, the pointer is null"
    if emission.graph.tensor(emission.graph.outputs[1]).dtype == "float32":
        return "float"
    return "int8_t, probability = (stored + 128) / 256"


def _trace_declaration(emission: Emission) -> str:
    if not emission.trace:
        return ""
    return "/* Checksum of each layer's result in the last mj_run. */\nextern uint32_t mj_trace[MJ_LAYER_COUNT];\n"
