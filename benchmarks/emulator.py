"""Speed of the emulator: instructions a second with exact counts, native and Python hook.

Run: python benchmarks/emulator.py
"""

from __future__ import annotations

import time
from pathlib import Path

from millijoule.build import build_board
from millijoule.emulate import Machine

MODEL = Path(__file__).resolve().parents[1] / "tests" / "fixtures" / "tiny_model"
LOOP = """
#include <stdint.h>
/* An int8 dot product as kernels have it, and a branchy loop. */
__attribute__((used, retain, noinline)) int32_t bench_dot(int rounds)
{
    static int8_t a[256], b[256];
    int8_t *left = a, *right = b;
    int32_t sum = 0;
    for (int round = 0; round < rounds; round++) {
        __asm volatile("" : "+r"(left), "+r"(right)::"memory"); /* the compiler must not know the values */
        for (int index = 0; index < 256; index++) {
            sum += left[index] * right[index];
        }
    }
    return sum;
}
__attribute__((used, retain, noinline)) int32_t bench_branchy(int rounds)
{
    uint32_t state = 1;
    int32_t sum = 0;
    for (int round = 0; round < rounds; round++) {
        state = state * 1664525u + 1013904223u;
        if (state >> 31) {
            __asm volatile("nop");
            sum += round;
        } else {
            sum -= 3;
        }
    }
    return sum;
}
"""


def main() -> None:
    files = {path.name: path.read_text() for path in MODEL.iterdir()} | {"bench.c": LOOP}
    print(f"{'board':12} {'hook':8} {'loop':8} {'instructions':>13} {'CPU s':>7} {'million/s':>10}")
    for board in ("stm32l4r9i", "stm32h7b3i"):
        image = build_board(files, board)
        for hook, rounds in (("native", {"dot": 300_000, "branchy": 20_000_000}), ("python", {"branchy": 100_000})):
            for name, count in rounds.items():
                machine = Machine(image, board, hook=hook)
                start = time.process_time()
                machine.call(f"bench_{name}", count)
                seconds = time.process_time() - start
                total = machine.counts().instructions
                print(f"{board:12} {hook:8} {name:8} {total:13,} {seconds:7.2f} {total / seconds / 1e6:10.1f}")


if __name__ == "__main__":
    main()
