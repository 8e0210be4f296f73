"""Whole optimizer steps of every registered method, through the plain loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.meters import Meter
from benchmarks.shapes import SHAPES
from benchmarks.turns import figures, nothing, take_turns
from benchmarks.variants import floor, shared
from rankwright.core.loop import Loop, constant_schedule
from rankwright.core.method import Method
from rankwright.core.method_registry import available_methods
from rankwright.methods import BiDoRA

TOTAL_STEPS = 100_000  # far more than are made: a run that stays in its first phase

BIDORA = {
    "bidora, no Gram penalty": BiDoRA(gram_weight=0.0),
    "bidora, whole Gram penalty (published)": BiDoRA(gram_rows=None, gram_modules=None),
    "bidora, first order": BiDoRA(hypergradient="first_order"),
    "bidora, central difference": BiDoRA(hypergradient="fd_central"),
    "bidora, betty (published)": BiDoRA(hypergradient="betty"),
    "bidora, exact": BiDoRA(hypergradient="exact"),
}
"""BiDoRA's modes, one upper step each lower step."""


def method_steps(shape: str, rounds: int) -> list[dict[str, Any]]:
    """The table of methods of one model: a row a method, and one a mode of BiDoRA."""
    torch.manual_seed(0)
    base = SHAPES[shape].build().to("cuda" if torch.cuda.is_available() else "cpu")
    batch = SHAPES[shape].batch(base)
    held_out = SHAPES[shape].batch(base, seed=1)
    methods = {name: method() for name, method in available_methods().items()} | BIDORA
    loops = {name: loop_over(base, method, held_out) for name, method in methods.items()}
    calls = [_floor_step(base, batch), *(_step(loop, batch) for loop in loops.values())]
    turns = take_turns([(call, nothing) for call in calls], Meter(), rounds)
    rows = [{"shape": shape, "name": "floor", "passes": 1.0, **figures(turns, 0)}]
    for place, (name, loop) in enumerate(loops.items(), start=1):
        passes = loop.passes / loop.step
        rows.append({"shape": shape, "name": name, "passes": passes, **figures(turns, place)})
    return rows


def loop_over(base: nn.Module, method: Method, held_out: dict[str, Tensor]) -> Loop:
    """A run of a method on a copy of the model that shares its frozen parameters."""
    return Loop(
        method.apply(shared(base)),
        method,
        total_steps=TOTAL_STEPS,
        lr=1e-4,
        schedule=constant_schedule,
        held_out=lambda _index: held_out,
        steps_per_epoch=TOTAL_STEPS,
    )


def _floor_step(base: nn.Module, batch: dict[str, Tensor]) -> Callable[[], Any]:
    model = floor(base)
    return lambda: model(**batch).loss.backward()


def _step(loop: Loop, batch: dict[str, Tensor]) -> Callable[[], Any]:
    return lambda: loop.train_step(batch)
