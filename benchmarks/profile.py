"""Where a variant spends more than the floor, operation by operation.

    python -m benchmarks.profile --shape llama "LoRA r=8" "DoRA r=8"

PyTorch's profiler around forward and backward of the floor and of each variant by turns; the time
of an operation itself, without those it calls, the mean over the turns. The profiler slows small
operations down, so these are shares of an explanation and no timings: those are `benchmarks.bench`.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.bench import Subject
from benchmarks.report import machine, table
from benchmarks.shapes import SHAPES
from benchmarks.variants import all_variants

Costs = Counter[str]
"""Operation -> milliseconds."""


def profiled(subjects: Sequence[Subject], rounds: int) -> tuple[list[Costs], list[Costs]]:
    """Milliseconds and calls by operation, a turn of each subject, the first turn left out."""
    times: list[Costs] = [Counter() for _ in subjects]
    calls: list[Costs] = [Counter() for _ in subjects]
    for turn in range(rounds + 1):
        for place, subject in enumerate(subjects):
            with profile(activities=[ProfilerActivity.CPU], acc_events=True) as seen:
                subject.step()
            subject.move()
            for event in seen.key_averages() if turn else ():
                times[place][event.key] += event.self_cpu_time_total / 1e3 / rounds
                calls[place][event.key] += event.count // rounds
    return times, calls


def differences(name: str, floor: Costs, ours: Costs, calls: Costs, rows: int) -> str:
    """Markdown of the operations in which a variant differs most from the floor."""
    total = floor.total()
    most = sorted(ours.keys() | floor.keys(), key=lambda op: -abs(ours[op] - floor[op]))[:rows]
    lines = [
        [
            f"`{op}`",
            str(calls[op]),
            f"{floor[op]:.1f}",
            f"{ours[op]:.1f}",
            f"{(ours[op] - floor[op]) / total:+.3f}",
        ]
        for op in most
    ]
    lines.append(
        ["all", "", f"{total:.1f}", f"{ours.total():.1f}", f"{ours.total() / total - 1:+.3f}"]
    )
    head = ["", "calls", "floor (ms)", f"{name} (ms)", "difference / floor"]
    return table(head, lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = {variant.name: variant for variant in all_variants()}
    parser.add_argument("variants", nargs="+", choices=names, metavar="VARIANT")
    parser.add_argument("--shape", default="llama", choices=SHAPES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=12, help="operations of each table")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    base = SHAPES[given.shape].build()
    batch = SHAPES[given.shape].batch(base)
    subjects = [Subject(names[name], base, batch) for name in ("floor", *given.variants)]
    times, calls = profiled(subjects, given.rounds)
    print(f"{SHAPES[given.shape].title}; {machine()}")
    for place, name in enumerate(given.variants, start=1):
        print(f"\n{differences(name, times[0], times[place], calls[place], given.rows)}")


if __name__ == "__main__":
    main()
