"""Measure, and write what was found to docs/results.

    python -m benchmarks.bench                            # everything, as `make bench` does
    python -m benchmarks.bench --shapes llama --rounds 3  # a quick look, nothing written

All variants of a model live in one process and take turns, so that whatever else the machine does
falls on all of them; ratios are taken within a turn. Memory is measured in a process of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.meters import ROOT, Meter, peak_bytes, peak_in_fresh_process, saved_bytes
from benchmarks.report import write
from benchmarks.shapes import SHAPES, little_of
from benchmarks.steps import method_steps
from benchmarks.turns import figures, take_turns
from benchmarks.variants import Variant, all_variants

RESULTS = ROOT / "docs" / "results"


class Subject:
    """One variant at work: a forward and a backward, then a step that is not measured.

    Attributes:
        variant: The variant.
        model: Its model.
        forward: Gives the loss of the one batch.
    """

    def __init__(self, variant: Variant, base: nn.Module, batch: dict[str, Tensor]) -> None:
        self.variant = variant
        self.model = variant.build(base)
        self.forward: Callable[[], Tensor] = lambda: self.model(**batch).loss
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.SGD(parameters, lr=1e-3) if parameters else None

    def step(self) -> None:
        """Forward and backward."""
        self.forward().backward()

    def move(self) -> None:
        """The optimizer's step: what is cached of the parameters is no longer true."""
        if self._optimizer is not None:
            self._optimizer.step()
            self._optimizer.zero_grad()


def measure_layers(shape: str, rounds: int, memory: bool) -> list[dict[str, Any]]:
    """The table of layers of one model: a row a variant."""
    torch.manual_seed(0)
    base = SHAPES[shape].build().to("cuda" if torch.cuda.is_available() else "cpu")
    batch = SHAPES[shape].batch(base)
    subjects = [Subject(variant, base, batch) for variant in all_variants()]
    meter = Meter()
    turns = take_turns([(s.step, s.move) for s in subjects], meter, rounds)
    return [
        {
            "shape": shape,
            "name": subject.variant.name,
            "of": subject.variant.of,
            "by": subject.variant.by,
            "saved_bytes": saved_bytes(subject.model, subject.forward),
            "peak_bytes": _peak(shape, subject.variant.name) if memory else None,
            **figures(turns, place),
        }
        for place, subject in enumerate(subjects)
    ]


def _peak(shape: str, name: str) -> int:
    return peak_in_fresh_process("benchmarks.bench", shape, name)


def _print_peak(shape: str, name: str) -> None:
    torch.manual_seed(0)
    base = SHAPES[shape].build().to("cuda" if torch.cuda.is_available() else "cpu")
    batch = SHAPES[shape].batch(base)
    variant = next(variant for variant in all_variants() if variant.name == name)
    Subject(variant, base, little_of(batch)).step()  # what the libraries load once is not its own
    print(peak_bytes(Subject(variant, base, batch).step))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shapes", nargs="+", default=[*SHAPES], choices=SHAPES)
    parser.add_argument(
        "--rounds", type=int, default=15, help="turns of the table of layers; 0: not taken"
    )
    parser.add_argument(
        "--steps", type=int, default=8, help="turns of the table of methods; 0: not taken"
    )
    parser.add_argument("--no-memory", action="store_true", help="skip peaks of memory")
    parser.add_argument("--write", action="store_true", help="write to docs/results")
    parser.add_argument("--peak-of", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if given.peak_of:
        _print_peak(*given.peak_of)
        return
    for shape in given.shapes:  # what is measured is written at once
        layers = measure_layers(shape, given.rounds, not given.no_memory) if given.rounds else []
        methods = method_steps(shape, given.steps) if given.steps else []
        write({"layers": layers, "methods": methods}, RESULTS if given.write else None)


if __name__ == "__main__":
    main()
