"""An upper step of BiDoRA in DoRA steps: time, what the Gram penalty adds, peak of memory.

    python -m benchmarks.upper_step                              # both shapes, 12 turns
    python -m benchmarks.upper_step --shapes minilm --rounds 3   # a quick look

Whole optimizer steps through the plain loop, by turns in one process; ratios to DoRA's step are
taken within a turn. Peaks are of the first two steps of a process of their own. Prints Markdown.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.meters import Meter, peak_bytes, peak_in_fresh_process
from benchmarks.shapes import SHAPES, little_of
from benchmarks.steps import loop_over
from benchmarks.turns import figures, nothing, take_turns
from rankwright.core.loop import Loop
from rankwright.core.method import Method
from rankwright.methods import BiDoRA, DoRA

METHODS: dict[str, Method] = {
    "DoRA": DoRA(),
    "DoRA, gradient of the norm": DoRA(norm_grad="full"),
    "BiDoRA, no Gram penalty": BiDoRA(gram_weight=0.0),
    "BiDoRA": BiDoRA(),
    "BiDoRA, 128 rows of all modules": BiDoRA(gram_modules=None),
    "BiDoRA, published Gram penalty": BiDoRA(gram_rows=None, gram_modules=None),
    "BiDoRA, one upper step in four": BiDoRA(unroll_steps=4),
    "BiDoRA, difference on a quarter": BiDoRA(fd_share=0.25),
    "BiDoRA, first order": BiDoRA(hypergradient="first_order"),
    "BiDoRA, central difference": BiDoRA(hypergradient="fd_central"),
    "BiDoRA, betty (published)": BiDoRA(hypergradient="betty", gram_rows=None, gram_modules=None),
}
"""What is measured; DoRA first, the rest in its steps."""


def measure(shape: str, rounds: int, names: Sequence[str]) -> list[str]:
    """Lines of a table of times; DoRA is the first of the names."""
    torch.manual_seed(0)
    base = SHAPES[shape].build()
    batch, held_out = (SHAPES[shape].batch(base, seed) for seed in (0, 1))
    loops = {name: loop_over(base, METHODS[name], held_out) for name in names}
    steps = {name: getattr(METHODS[name], "unroll_steps", 1) for name in names}
    calls = [(_steps(loop, batch, steps[name]), nothing) for name, loop in loops.items()]
    turns = take_turns(calls, Meter(), rounds)
    lines = [
        f"| {SHAPES[shape].title} | passes | DoRA steps | quartiles | ms a step |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for place, (name, loop) in enumerate(loops.items()):
        unit, found = next(iter(figures(turns, place).items()))
        low, middle, high = (ratio / steps[name] for ratio in found["ratio"])
        ms = statistics.median(turn[place]["ms"] for turn in turns) / steps[name]
        passes = loop.passes / loop.step
        lines.append(f"| {name} | {passes:.2f} | {middle:.2f} | {low:.2f}-{high:.2f} | {ms:.0f} |")
    return [*lines, "", f"Ratios of {unit}, {rounds} turns.", ""]


def peaks(shape: str, processes: int) -> list[str]:
    """Lines of a table of peaks, each the median of several processes."""
    lines = ["| peak of two steps | MB | to DoRA | range |", "| --- | ---: | ---: | ---: |"]
    of_dora = 0.0
    for name in ("DoRA", "BiDoRA, no Gram penalty", "BiDoRA", "BiDoRA, published Gram penalty"):
        found = [
            peak_in_fresh_process("benchmarks.upper_step", shape, name) / 1e6
            for _ in range(processes)
        ]
        peak = statistics.median(found)
        of_dora = of_dora or peak
        span = f"{min(found):.0f}-{max(found):.0f} MB"
        lines.append(f"| {name} | {peak:.0f} | {peak / of_dora:.2f} | {span} |")
    return [*lines, "", f"Medians of {processes} processes.", ""]


def _print_peak(shape: str, name: str) -> None:
    torch.manual_seed(0)
    base = SHAPES[shape].build()
    batch, held_out = (SHAPES[shape].batch(base, seed) for seed in (0, 1))
    # what the libraries load once is not the steps' own
    _steps(loop_over(base, METHODS[name], little_of(held_out)), little_of(batch), 2)()
    loop = loop_over(base, METHODS[name], held_out)
    print(peak_bytes(_steps(loop, batch, 2)))


def _steps(loop: Loop, batch: dict[str, torch.Tensor], number: int) -> Callable[[], Any]:
    return lambda: [loop.train_step(batch) for _ in range(number)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shapes", nargs="+", default=["minilm", "llama"], choices=SHAPES)
    parser.add_argument("--rounds", type=int, default=12, help="turns; 0 for memory alone")
    parser.add_argument("--methods", nargs="+", default=[*METHODS], choices=METHODS)
    parser.add_argument("--processes", type=int, default=3, help="processes a peak; 0 for none")
    parser.add_argument("--peak-of", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if given.peak_of:
        _print_peak(*given.peak_of)
        return
    for shape in given.shapes:
        if given.rounds:
            names = ["DoRA", *(name for name in given.methods if name != "DoRA")]
            print("\n".join(measure(shape, given.rounds, names)), flush=True)
        if given.processes:
            print("\n".join(peaks(shape, given.processes)), flush=True)


if __name__ == "__main__":
    main()
