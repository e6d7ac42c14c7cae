"""Loops with cycle counts derived by hand from the documented rules, and a branchy one.

They test the implementation of the rules, not the silicon; docs/cycle-model.md has the comparison with real boards.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from millijoule.build._toolchain import cross_compiler, run
from millijoule.emulate import CortexM4, CortexM7, CycleModel, M4Rules, M7Rules
from millijoule.emulate._decode import Instruction, decode

from .micro import END, turn

# name -> (loop, cycles per turn and their derivation)
M4_LOOPS = {
    "counter": (END, 1 + 1 + 1),
    "four overlapped loads, 2+1+1+1": ("ldr r1,[r4]\n ldr r2,[r4,#4]\n ldr r3,[r4,#8]\n ldr r5,[r4,#12]", 5 + 3),
    "load, use, load, use, (2+1)x2": ("ldr r1,[r4]\n adds r2,r2,r1\n ldr r1,[r4,#4]\n adds r2,r2,r1", 6 + 3),
    "ldm of eight, 1+8": ("ldm r4,{r1-r3,r5-r9}", 9 + 3),
    "ldrd 1+2 and four smlad": (
        "ldrd r1,r2,[r4]\n smlad r5,r1,r2,r5\n smlad r6,r1,r2,r6\n smlad r7,r1,r2,r7\n smlad r8,r1,r2,r8",
        3 + 4 + 3,
    ),
    "seven single-cycle DSP instructions": (
        "smull r1,r2,r3,r4\n smlal r1,r2,r3,r4\n umull r5,r6,r3,r4\n ssat r5,#8,r5\n sxtb16 r6,r5,ror #8\n"
        " pkhbt r7,r6,r5,lsl #16\n qadd r8,r7,r6",
        7 + 3,
    ),
    "load 2 and store 1": ("ldr r1,[r4]\n str r1,[r5]", 3 + 3),
    "store with register offset 2": ("str r1,[r4,r5]", 2 + 3),
    "address from the instruction before, +1": ("add r4,r5,r6\n ldr r1,[r4]", 1 + 3 + 3),
    "vfma 3, vadd 1, dependent vadd 1+1": ("vfma.f32 s0,s1,s2\n vadd.f32 s3,s4,s5\n vadd.f32 s6,s3,s5", 6 + 3),
    "vdiv 14": ("vdiv.f32 s0,s1,s2", 14 + 3),
    "push and pop of five, 6+6": ("push {r1-r5}\n pop {r1-r5}", 12 + 3),
    # Only a loaded register keeps the next load from overlapping, not the base written back: 2+1, measured on silicon.
    "post-indexed loads overlap": ("ldr r1,[r6],#4\n ldr r2,[r6],#4", 3 + 3),
    "a loaded address does not overlap": ("ldr r1,[r6]\n ldr r2,[r1]", 4 + 3),
    "udiv 6": ("udiv r1,r2,r3", 6 + 3),
    "it folded behind a 16-bit instruction": ("adds r1,r1,r2\n it eq\n moveq r3,r4", 2 + 3),
    "it not folded behind a 32-bit one": ("add.w r1,r1,r8\n it eq\n moveq r3,r4", 3 + 3),
}

# Every loop ends with a taken branch: one bubble. Before it: the cycles in which one or two instructions issue.
M7_LOOPS = {
    "counter: subs with bne": (END, 1 + 1),
    "load with ALU, twice": ("ldr r1,[r4]\n adds r2,r2,r3\n ldr r5,[r4,#4]\n adds r6,r6,r3", 3 + 1),
    # One access a cycle: ldr; ldr, smlad; ldr, smlad; ldr, subs; bne.
    "four loads, two smlad": (
        "ldr r1,[r4]\n ldr r2,[r4,#4]\n smlad r5,r8,r9,r5\n ldr r3,[r4,#8]\n smlad r6,r8,r9,r6\n ldr r7,[r4,#12]",
        5 + 1,
    ),
    "smlad chain, one a cycle": ("\n ".join(["smlad r5,r8,r9,r5"] * 4), 5 + 1),
    "load, then its use with subs, then bne": ("ldr r1,[r4]\n adds r2,r2,r1", 3 + 1),
    # A loaded address is ready after 2 cycles. Loads at 0 and 2 (with subs), bne at 3, bubble: next load at 5.
    "pointer chase": ("ldr r1,[r1]\n ldr r1,[r1]", 4 + 1),
    "sxtb16 in the first slot only": ("sxtb16 r1,r5\n sxtb16 r2,r6\n sxtb16 r3,r7\n sxtb16 r4,r8", 5 + 1),
    # The two rules added from measurements: the store cannot join the load, the subs joins the store.
    "no load and store in one cycle": ("ldr r1,[r4]\n str r2,[r5]", 3 + 1),
    "loads of one bank": ("ldr r1,[r4]\n ldr r2,[r4,#8]", 3 + 1),
    "udiv 7 alone": ("udiv r1,r2,r3", 7 + 1 + 1),
}


@pytest.fixture(scope="module")
def loops(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Instruction, ...]]:
    """All loops, assembled at once."""
    folder = tmp_path_factory.mktemp("loops")
    bodies = {f"m4 {name}": loop for name, (loop, _) in M4_LOOPS.items()}
    bodies |= {f"m7 {name}": loop for name, (loop, _) in M7_LOOPS.items()}
    lines = [".syntax unified", ".thumb", ".text"]
    for number, loop in enumerate(bodies.values()):
        lines += [".balign 16", f"loop{number}:", turn(loop), f"end{number}:"]
    (folder / "a.s").write_text("\n".join([*lines, ""]))
    flags = ("-target", "thumb-freestanding-eabihf", "-mcpu=cortex_m7+fp_armv8d16sp")
    run([*cross_compiler("zig").command, *flags, "-c", "a.s", "-o", "a.o"], what="a.s", folder=folder)
    with (folder / "a.o").open("rb") as file:
        elf = ELFFile(file)
        code = elf.get_section_by_name(".text").data()
        places = {s.name: int(s["st_value"]) & ~1 for s in elf.get_section_by_name(".symtab").iter_symbols()}
    return {
        name: decode(code[places[f"loop{number}"] : places[f"end{number}"]], 0x08000000 + places[f"loop{number}"])
        for number, name in enumerate(bodies)
    }


def per_turn(model: CycleModel, loop: tuple[Instruction, ...]) -> int:
    """Cycles per turn in the steady state."""
    return model.cycles([loop] * 6) - model.cycles([loop] * 5)


@pytest.mark.parametrize("name", M4_LOOPS)
def test_cortex_m4(loops: dict[str, tuple[Instruction, ...]], name: str) -> None:
    assert per_turn(CortexM4(), loops[f"m4 {name}"]) == M4_LOOPS[name][1]


@pytest.mark.parametrize("name", M7_LOOPS)
def test_cortex_m7(loops: dict[str, tuple[Instruction, ...]], name: str) -> None:
    assert per_turn(CortexM7(), loops[f"m7 {name}"]) == M7_LOOPS[name][1]


def test_rules_are_parameters(loops: dict[str, tuple[Instruction, ...]]) -> None:
    counter = loops["m4 counter"]
    assert per_turn(CortexM4(M4Rules(refill_direct=2)), counter) == 4
    pair = loops["m7 no load and store in one cycle"]
    assert per_turn(CortexM7(M7Rules(load_with_store=True, taken_bubble=0)), pair) == 2
    # Two loads of different banks in one cycle: ldr, ldr; smlad, ldr; smlad, ldr; subs, bne. Of one bank: as before.
    assert per_turn(CortexM7(M7Rules(two_loads=True)), loops["m7 four loads, two smlad"]) == 4 + 1
    assert per_turn(CortexM7(M7Rules(two_loads=True)), loops["m7 loads of one bank"]) == 3 + 1
    assert per_turn(CortexM4(M4Rules(divide=12)), loops["m4 udiv 6"]) == 15


def test_assumptions_are_stated() -> None:
    for model in (CortexM4(), CortexM7()):
        assert "zero wait states" in model.assumptions and model.version


@pytest.mark.parametrize("hook", ["native", "python"])
def test_a_branchy_function_is_counted_exactly(hook: str) -> None:
    """Loops and branches whose executions follow from arithmetic: Collatz steps of 1..200."""
    from millijoule.build import build_board
    from millijoule.emulate import Machine

    folder = Path(__file__).parents[1] / "fixtures" / "tiny_model"
    files = {path.name: path.read_text() for path in folder.iterdir()}
    files["collatz.c"] = """
    int collatz(unsigned last);
    __attribute__((used, retain, noinline)) int collatz(unsigned last) {
        int steps = 0;
        for (unsigned start = 1; start <= last; start++)
            for (unsigned n = start; n != 1; steps++) {
                if (n & 1u) { __asm volatile("mul r12, r12, r12" ::: "r12"); n = 3u * n + 1u; }
                else { __asm volatile("clz r12, r12" ::: "r12"); n >>= 1; }
            }
        return steps;
    }
    """
    odd = even = 0
    for start in range(1, 201):
        n = start
        while n != 1:
            odd, even, n = (odd + 1, even, 3 * n + 1) if n & 1 else (odd, even + 1, n // 2)
    machine = Machine(build_board(files, "stm32l4r9i"), "stm32l4r9i", hook=hook)
    assert machine.call("collatz", 200) == odd + even
    counts = {"mul": 0, "clz": 0}
    sizes = machine.counter.sizes()
    for total in machine.totals():
        for instruction in machine.costs.block(total.target, sizes[total.target]):
            if instruction.name in counts:
                counts[instruction.name] += total.count
    assert counts == {"mul": odd, "clz": even}
    assert machine.counts().cycles >= machine.counts().instructions
