"""C text of a scheduled, planned and lowered graph: `mj_model.h`, `mj_model.c`, `mj_weights.h`, `mj_weights.c`."""

from __future__ import annotations

from millijoule.compile._text import C_TYPES, array_values, comment, float_literal, note, string_literal
from millijoule.compile.checksum import checksum_function
from millijoule.compile.emission import Emission, block_bytes, blocks, ordered, shape, title
from millijoule.compile.emit_header import model_header
from millijoule.compile.emit_stream import FEED, first_layer, frame_source
from millijoule.compile.emit_stream import run as run_stream
from millijoule.compile.golden import GoldenVector
from millijoule.compile.lower import Call, Structure
from millijoule.compile.schedule import Step

__all__ = ["emit"]


def emit(emission: Emission) -> dict[str, str]:
    """The generated files by name."""
    frame = {"mj_frame.c": frame_source(emission)} if emission.streamed else {}
    return {
        "mj_model.h": model_header(emission),
        "mj_model.c": _model_source(emission),
        "mj_weights.h": _weights_header(emission),
        "mj_weights.c": _weights_source(emission),
        **frame,
    }


# *** mj_weights.h, mj_weights.c *****


def _weights_header(emission: Emission) -> str:
    parts = [
        title(emission, "the constants of each layer"),
        "#ifndef MJ_WEIGHTS_H\n#define MJ_WEIGHTS_H\n",
        "#include <stdint.h>\n",
    ]
    for step, call in blocks(emission):
        number = f"{step.index:03d}"
        members = "\n".join(
            f"    {C_TYPES[item.value.dtype.name]} {item.name}[{item.value.size}];" for item in ordered(call.constants)
        )
        parts.append(
            f"/* {note(step.name)} */\ntypedef struct {{\n{members}\n}} mj_block_{number};\n"
            f"extern const mj_block_{number} mj_constants_{number};\n"
        )
    parts.append("#endif\n")
    return "\n".join(parts)


def _weights_source(emission: Emission) -> str:
    parts = [
        title(emission, "weights, folded biases, multipliers, shifts and tables"),
        '#include "mj_weights.h"\n',
        "#if defined(__ELF__)\n"
        '#define MJ_FLASH __attribute__((section(".rodata.mj_weights")))\n'
        "#else\n#define MJ_FLASH\n#endif\n",
    ]
    for step, call in blocks(emission):
        number = f"{step.index:03d}"
        members = "\n".join(
            f"    .{item.name} = {{\n{array_values(item.value)}\n    }}," for item in ordered(call.constants)
        )
        parts.append(
            f"/* {note(step.name)} */\n"
            f'_Static_assert(sizeof(mj_block_{number}) == {block_bytes(call)}, "layer {number} has another size");\n'
            f"MJ_FLASH const mj_block_{number} mj_constants_{number} = {{\n{members}\n}};\n"
        )
    return "\n".join(parts)


# *** mj_model.c *****


def _model_source(emission: Emission) -> str:
    parts = [
        title(emission, "one function per layer"),
        _includes(emission),
        _memory(emission),
        *(_layer(emission, step, call) for step, call in zip(emission.schedule.steps, emission.calls, strict=True)),
        _tables(emission),
        _run(emission),
    ]
    if emission.golden is not None:
        parts.append(_self_test(emission, emission.golden))
    else:
        parts.append("int mj_init(void)\n{\n    return MJ_OK;\n}\n")
    return "\n".join(parts)


def _includes(emission: Emission) -> str:
    weights = '#include "mj_weights.h"\n' if blocks(emission) else ""
    engines = {step.kernel.name for step in emission.schedule.steps if step.rows}
    rows = '#include "mj_row_engine.h"\n' if engines else ""
    rows += '#include "mj_rows_dynamic.h"\n' if "mj_rows_dyn" in engines else ""
    return f'#include "mj_model.h"\n\n#include <stddef.h>\n\n#include "mj_kernels.h"\n{rows}{weights}'


_FAST = """\
#if defined(MJ_FAST)
/* The build says where the second arena lies: what is used most often, best in tightly coupled memory. */
#elif defined(__ELF__)
#define MJ_FAST __attribute__((section(".bss.mj_fast")))
#else
#define MJ_FAST
#endif
"""
_TWO_ARENAS = """\
/* Offsets go on in the second arena where the first one ends. */
#define MJ_AT(type, offset)                                      \\
    ((type *)(void *)(((offset) < MJ_BULK_BYTES ? mj_arena : mj_fast) + \\
                      ((offset) < MJ_BULK_BYTES ? (offset) : (offset) - MJ_BULK_BYTES)))
"""


def _memory(emission: Emission) -> str:
    plan = emission.plan
    fast = both = fast_array = inside = ""
    if not emission.streamed:
        inside = (
            '_Static_assert(MJ_INPUT_OFFSET + MJ_INPUT_BYTES <= MJ_BULK_BYTES, "the picture lies outside the arena");\n'
        )
    at = "#define MJ_AT(type, offset) ((type *)(void *)&mj_arena[offset])\n"
    if plan.fast_bytes:
        fast, at, both = _FAST, _TWO_ARENAS, " in both arenas"
        fast_array = "MJ_FAST _Alignas(16) uint8_t mj_fast[MJ_FAST_BYTES];\n"
    return f"""#define MJ_BULK_BYTES (MJ_ARENA_BYTES - MJ_FAST_BYTES)
#if defined(MJ_ARENA)
/* The build says where the arena lies; -DMJ_ARENA= leaves it in .bss. */
#elif defined(__ELF__)
#define MJ_ARENA __attribute__((section(".mj_arena")))
#else
#define MJ_ARENA
#endif
{fast}#define MJ_LAYER static __attribute__((noinline)) void
{at}
#ifdef MJ_RAM_BYTES
_Static_assert(MJ_BULK_BYTES <= MJ_RAM_BYTES, "the arena is larger than the memory that the board has for it");
#endif
{inside}
/* {plan.arena_bytes} bytes{both}; no plan of these layers can be smaller than {plan.lower_bound}. */
MJ_ARENA _Alignas(16) uint8_t mj_arena[MJ_BULK_BYTES];
{fast_array}"""


def _layer(emission: Emission, step: Step, call: Call) -> str:
    graph = emission.graph

    def place(name: str) -> str:
        tensor = graph.tensor(name)
        return f"{tensor.dtype} {shape(tensor)} at {emission.offset(name)}"

    inputs = " and ".join(place(name) for name in step.operands if name in emission.schedule.home)
    text = f"{step.name}: {step.operator}, {inputs} -> {place(step.node.output)}"
    if step.scratch_bytes:
        text += (
            f", scratch {step.scratch_bytes} at {emission.plan.buffer(emission.schedule.scratch[step.index]).offset}"
        )
    if step.macs:
        text += f", {step.macs} MACs"
    structures = _structures(call)
    copies = ""
    for name, offset in call.staged.items():
        constant = f"mj_constants_{step.index:03d}.{name}"
        copies += f"    __builtin_memcpy(MJ_AT(uint8_t, {offset}), {constant}, sizeof {constant});\n"
    if emission.streamed and step.index == 0:
        behind = "" if call.then is None else _structures(call.then) + _statement(call.then)
        return first_layer(step, call, comment(text), structures, copies, behind)
    body = structures + copies + _statement(call)
    if call.then is not None:
        body = _structures(call.then) + body + _statement(call.then)
    return f"{comment(text)}\nMJ_LAYER {step.symbol}(void)\n{{\n{body}}}\n"


def _structures(call: Call) -> str:
    return "".join(f"    {_structure(item)}\n" for item in call.structures)


def _statement(call: Call) -> str:
    return _wrapped(f"    {call.kernel}({', '.join(call.arguments)});") + "\n"


def _structure(item: Structure) -> str:
    fields = [f".{name} = {value}" for name, value in item.fields.items()]
    return _wrapped(f"static const {item.type} {item.name} = {{{', '.join(fields)}}};")


def _wrapped(statement: str, width: int = 116) -> str:
    """A statement broken at commas, continued with eight columns of indentation."""
    lines, line = [], ""
    for piece in statement.split(", "):
        if line and len(line) + len(piece) + 3 > width:
            lines.append(line + ",")
            line = "        " + piece
        else:
            line = f"{line}, {piece}" if line else piece
    return "\n".join([*lines, line])


def _tables(emission: Emission) -> str:
    steps = emission.schedule.steps
    functions = "\n".join(
        "    NULL, /* its rows are pushed */" if emission.streamed and step.index == 0 else f"    {step.symbol},"
        for step in steps
    )
    names = "\n".join(f"    {string_literal(step.name)}," for step in steps)
    classes = "\n".join(f"    {string_literal(name)}," for name in emission.classes)
    return f"""static void (*const layers[MJ_LAYER_COUNT])(void) = {{
{functions}
}};

const char *const mj_layer_names[MJ_LAYER_COUNT] = {{
{names}
}};

const char *const mj_class_names[MJ_CLASSES] = {{
{classes}
}};
"""


def _run(emission: Emission) -> str:
    graph, logits = emission.graph, emission.logits
    kind = C_TYPES[logits.dtype]
    probabilities = "NULL"
    if len(graph.outputs) == 2:
        probabilities = f"MJ_AT(uint8_t, {emission.offset(graph.outputs[1])})"
    trace, record = "", ""
    if emission.trace:
        trace = _trace(emission)
        record = "        mj_trace[layer] = checksum(MJ_AT(uint8_t, results[layer].offset), results[layer].bytes);\n"
    loop = f"""    for (int layer = {int(emission.streamed)}; layer < MJ_LAYER_COUNT; ++layer) {{
        if (profile_hook != NULL) {{
            profile_hook(layer, 0);
        }}
        layers[layer]();
        if (profile_hook != NULL) {{
            profile_hook(layer, 1);
        }}
{record}    }}
    result->logits = MJ_AT(uint8_t, {emission.offset(logits.name)});
    result->probabilities = {probabilities};
    result->class_index = largest(MJ_AT(const {kind}, {emission.offset(logits.name)}));
"""
    return f"""{trace}static void (*profile_hook)(int layer, int end);

void mj_profile(void (*hook)(int layer, int end))
{{
    profile_hook = hook;
}}

static int32_t largest(const {kind} *logits)
{{
    int32_t best = 0;
    for (int32_t i = 1; i < MJ_CLASSES; ++i) {{
        if (logits[i] > logits[best]) {{
            best = i;
        }}
    }}
    return best;
}}

{_run_function(emission, loop, record)}"""


def _run_function(emission: Emission, loop: str, record: str) -> str:
    if emission.streamed:
        return run_stream(emission.schedule.steps[0], emission.calls[0], loop, record)
    return f"""int mj_run(mj_result *result)
{{
    if (result == NULL) {{
        return MJ_ERROR_ARGUMENT;
    }}
{loop}    return MJ_OK;
}}
"""


def _trace(emission: Emission) -> str:
    graph = emission.graph
    rows = "\n".join(
        f"    {{{emission.offset(step.node.output)}, {graph.tensor(step.node.output).bytes}}},"
        for step in emission.schedule.steps
    )
    return f"""uint32_t mj_trace[MJ_LAYER_COUNT];

static const struct {{
    uint32_t offset, bytes;
}} results[MJ_LAYER_COUNT] = {{
{rows}
}};

static uint32_t checksum(const uint8_t *bytes, uint32_t count)
{{
    uint32_t plain = 0, weighted = 0;
    for (uint32_t i = 0; i < count; ++i) {{
        plain += bytes[i];
        weighted += plain;
    }}
    return weighted * 65599u + plain;
}}

"""


_WHOLE = """\
    for (uint32_t i = 0; i < MJ_INPUT_BYTES; ++i) {
        state = 1664525u * state + 1013904223u;
        MJ_INPUT[i] = (uint8_t)(state >> 24);
    }
    mj_result result;
    (void)mj_run(&result);
"""


def _self_test(emission: Emission, golden: GoldenVector) -> str:
    logits = emission.logits
    kind = C_TYPES[logits.dtype]
    if logits.dtype == "float32":
        # Written so that NaN fails.
        limit = f"    const float tolerance = {float_literal(golden.tolerance)};\n"
        differs = "!(logits[i] >= expected[i] - tolerance && logits[i] <= expected[i] + tolerance)"
    else:
        limit, differs = "", "logits[i] != expected[i]"
    checksum, check = "", ""
    if with_constants := blocks(emission):
        checksum = checksum_function(
            ((f"{step.index:03d}", tuple(ordered(call.constants))) for step, call in with_constants),
            emission.plan.slow_bytes,
        )
        check = """    if (!weights_are_intact()) {
        return MJ_ERROR_WEIGHTS;
    }
"""
    return f"""#ifndef MJ_SELF_TEST
#define MJ_SELF_TEST 1
#endif

#if MJ_SELF_TEST
{checksum}
/* The golden picture: byte i is the top byte of state i + 1 of x = 1664525 x + 1013904223 mod 2^32, from
 * state 0 = {golden.seed} (Numerical Recipes). */
static int self_test(void)
{{
    static const {kind} expected[MJ_CLASSES] = {{
{array_values(golden.logits)}
    }};
{limit}{check}    uint32_t state = {golden.seed}u;
{FEED if emission.streamed else _WHOLE}    const {kind} *logits = result.logits;
    for (int32_t i = 0; i < MJ_CLASSES; ++i) {{
        if ({differs}) {{
            return MJ_ERROR_SELF_TEST;
        }}
    }}
    return MJ_OK;
}}
#endif

int mj_init(void)
{{
#if MJ_SELF_TEST
    return self_test();
#else
    return MJ_OK;
#endif
}}
"""
