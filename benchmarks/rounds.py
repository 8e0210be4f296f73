"""XGBLoRA's rounds: what a booster's swap costs, and what each draw of layers saves.

    python -m benchmarks.rounds                              # both shapes, 24 turns
    python -m benchmarks.rounds --shapes minilm --rounds 4   # a quick look

Every round is one step long here, so that each step ends in a swap (absorb, draw, reset) and each
turn sees another draw of layers. The draws take turns in one process; a step is what is left of a
training step without its swap, and ratios to LoRA's step are taken within a turn. Prints Markdown.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.shapes import SHAPES
from benchmarks.steps import loop_over
from rankwright.core.loop import Loop
from rankwright.core.method import Method
from rankwright.methods import LoRA, XGBLoRA

STEPS = 20
"""Steps of the round that a swap is compared with."""

BOOSTER: dict[str, Any] = {"r": 1, "lora_alpha": 2.0, "steps_per_round": 1}

METHODS: dict[str, Method] = {
    "LoRA r=1": LoRA(r=1, lora_alpha=2.0),
    "all layers": XGBLoRA(**BOOSTER, layers_per_round=None),
    "a third, uniform": XGBLoRA(**BOOSTER, layers_per_round=1 / 3),
    "a third, blocks": XGBLoRA(**BOOSTER, layers_per_round=1 / 3, selection="blocks"),
    "a third, top heavy": XGBLoRA(**BOOSTER, layers_per_round=1 / 3, selection="top_heavy"),
}


class Watched:
    """A run whose swaps are timed apart.

    Attributes:
        step: Processor time of each step without its swap, ms.
        swap: That of each swap, ms.
    """

    def __init__(self, loop: Loop, batch: dict[str, torch.Tensor]) -> None:
        self.step: list[float] = []
        self.swap: list[float] = []
        self._loop, self._batch = loop, batch
        self._event = loop.procedure.after_step
        loop.procedure.after_step = self._after_step  # type: ignore[method-assign]

    def _after_step(self) -> None:
        start = time.process_time_ns()
        self._event()
        self.swap.append((time.process_time_ns() - start) / 1e6)

    def __call__(self) -> None:
        """One step."""
        start = time.process_time_ns()
        self._loop.train_step(self._batch)
        self.step.append((time.process_time_ns() - start) / 1e6 - self.swap[-1])


def measure(shape: str, rounds: int) -> list[str]:
    """Lines of a table."""
    torch.manual_seed(0)
    base = SHAPES[shape].build()
    batch = SHAPES[shape].batch(base)
    runs = {name: Watched(loop_over(base, m, batch), batch) for name, m in METHODS.items()}
    for turn in range(rounds + 1):
        names = list(runs)
        for place in range(len(names)):
            runs[names[(place + turn) % len(names)]]()
        print(".", end="", flush=True, file=sys.stderr)
    lora = runs["LoRA r=1"].step[1:]
    lines = [
        f"| {SHAPES[shape].title} | ms a step | LoRA steps, mean | quartiles | swap, ms | most "
        f"| of {STEPS} steps |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, run in runs.items():
        steps, swaps = run.step[1:], run.swap[1:]
        ratios = [step / other for step, other in zip(steps, lora, strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4)
        swap = statistics.median(swaps)
        share = "" if name == "LoRA r=1" else f"{swap / (STEPS * statistics.median(steps)):.2%}"
        lines.append(
            f"| {name} | {statistics.median(steps):.0f} | {statistics.mean(ratios):.2f} "
            f"| {low:.2f}-{high:.2f} | {swap:.1f} | {max(swaps):.1f} | {share} |"
        )
    return [*lines, "", f"{rounds} turns; a swap ends each.", ""]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shapes", nargs="+", default=["minilm", "llama"], choices=SHAPES)
    parser.add_argument("--rounds", type=int, default=24, help="turns")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for shape in given.shapes:
        print("\n".join(measure(shape, given.rounds)), flush=True)


if __name__ == "__main__":
    main()
