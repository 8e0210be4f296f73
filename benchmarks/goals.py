"""Steps of methods beside the steps that they must not exceed, by turns in one process.

    python -m benchmarks.goals                             # all three shapes, 15 turns
    python -m benchmarks.goals --only SoRA --rounds 3      # a quick look

Whole optimizer steps through the plain loop. A ratio is taken within a turn; the table has the
median of the ratios, their quartiles, and the goal. Prints Markdown.
"""

from __future__ import annotations

import argparse
import itertools
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from peft import AdaLoraConfig, get_peft_model
from torch import Tensor, nn

from benchmarks.meters import Meter
from benchmarks.shapes import SHAPES
from benchmarks.steps import TOTAL_STEPS, loop_over
from benchmarks.turns import nothing, take_turns
from benchmarks.variants import floor, shared
from rankwright.core.method import Method
from rankwright.methods import (
    AdaLoRA,
    AutoLoRA,
    BeamLoRA,
    BiDoRA,
    BiLoRA,
    DiffoRA,
    DoRADynamic,
    LoRA,
    SoRA,
)
from rankwright.procedures.bilevel.hypergradient import Mode

SEARCH_STEPS = 2
"""Steps of the search of a run that is measured in retraining."""

RETRAINING: dict[str, Any] = {"search_fraction": SEARCH_STEPS / TOTAL_STEPS, "warmup": 0.0}

MODES: tuple[Mode, ...] = ("fd_forward", "fd_central", "first_order", "exact")

Step = Callable[[nn.Module, dict[str, Tensor]], Callable[[], Any]]
"""(base model, batch) -> an optimizer step."""


@dataclass(frozen=True)
class Goal:
    """A step whose time is compared with that of another.

    Attributes:
        name: Name in the table.
        method: The method, or the step, measured.
        reference: The method, or the step, that it is compared with.
        most: Largest ratio that meets the goal; None to report the ratio alone.
        steps_before: Steps made before the first that counts.
    """

    name: str
    method: Method | Step
    reference: Method | Step
    most: float | None
    steps_before: int = 0


def _search(mode: Mode) -> list[Goal]:
    bidora = BiDoRA(hypergradient=mode)
    found = [
        Goal(f"{type(method).__name__}, search, {mode} / BiDoRA", method, bidora, 1.0)
        for method in (
            BiLoRA(hypergradient=mode),
            AutoLoRA(hypergradient=mode, warmup=0.0),
            DiffoRA(hypergradient=mode, warmup=0.0),
        )
    ]
    return [
        *found,
        replace(
            found[0],
            name=found[0].name + " without Gram",
            reference=replace(bidora, gram_weight=0.0),
        ),
    ]


def gates() -> list[Goal]:
    """Return the goals of the methods with two levels over gates, and of SoRA."""
    retraining = [
        Goal(
            f"{type(method).__name__}, retraining / LoRA",
            method,
            LoRA(r=method.r),
            1.02,
            SEARCH_STEPS,
        )
        for method in (
            BiLoRA(retrain=True, orthogonality=0.0, **RETRAINING),
            BiLoRA(retrain=True, **RETRAINING),
            AutoLoRA(threshold=0.0, **RETRAINING),
            DiffoRA(keep=1.0, **RETRAINING),
            DiffoRA(**RETRAINING),
        )
    ]
    retraining[0] = replace(retraining[0], name="BiLoRA without penalty, retraining / LoRA")
    retraining[-1] = replace(retraining[-1], name="DiffoRA of half the modules, retraining / LoRA")
    sora = SoRA()
    return [
        *(goal for mode in MODES for goal in _search(mode)),
        *retraining,
        Goal("SoRA / LoRA of its rank", sora, LoRA(r=sora.r), None),
    ]


def ranks() -> list[Goal]:
    """Return the goals of the methods whose ranks change, while all of their parts are at work."""
    lora = LoRA(r=12, lora_alpha=24)
    return [
        Goal("DoRADynamic / LoRA of its starting rank", DoRADynamic(), lora, 1.08),
        Goal("AdaLoRA / LoRA of its starting rank", AdaLoRA(), lora, None),
        Goal("AdaLoRA / PEFT's AdaLoRA", AdaLoRA(), _peft_adalora, 0.6),
        Goal("the frozen model alone / PEFT's AdaLoRA", _frozen, _peft_adalora, None),
        Goal("BeamLoRA / LoRA", BeamLoRA(), LoRA(), None),
    ]


def _frozen(base: nn.Module, batch: dict[str, Tensor]) -> Callable[[], Any]:
    model = floor(base)
    return lambda: model(**batch).loss.backward()


def peft_adalora(base: nn.Module) -> tuple[Any, torch.optim.Optimizer]:
    """Return PEFT's AdaLoRA with the ranks of ours, and its optimizer."""
    config = AdaLoraConfig(
        task_type="CAUSAL_LM" if "CausalLM" in type(base).__name__ else "SEQ_CLS",
        target_modules="all-linear",
        **{"init_r": 12, "target_r": 8, "lora_alpha": 24},
        **{"tinit": TOTAL_STEPS // 10, "tfinal": TOTAL_STEPS // 10, "total_step": TOTAL_STEPS},
    )
    model = get_peft_model(shared(base), config).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    return model, optimizer


def _peft_adalora(base: nn.Module, batch: dict[str, Tensor]) -> Callable[[], Any]:
    """The loop of PEFT's documentation."""
    model, optimizer = peft_adalora(base)
    numbers = itertools.count(1)

    def step() -> None:
        model(**batch).loss.backward()
        optimizer.step()
        model.base_model.update_and_allocate(next(numbers))
        optimizer.zero_grad()

    return step


def measure(shape: str, goals: Sequence[Goal], rounds: int) -> list[str]:
    """Return the lines of a table: a goal a row."""
    torch.manual_seed(0)
    base = SHAPES[shape].build()
    batch, held_out = (SHAPES[shape].batch(base, seed) for seed in (0, 1))
    calls: dict[str, Callable[[], Any]] = {}
    for goal in goals:
        for subject in (goal.method, goal.reference):
            if repr(subject) not in calls:
                calls[repr(subject)] = _step_of(subject, base, batch, held_out)
        for _ in range(goal.steps_before):
            calls[repr(goal.method)]()
    places = {method: place for place, method in enumerate(calls)}
    turns = take_turns([(call, nothing) for call in calls.values()], Meter(), rounds)
    unit = next(iter(turns[0][0]))
    lines = [
        f"| {SHAPES[shape].title} | ratio | quartiles | goal |",
        "| --- | ---: | ---: | ---: |",
    ]
    for goal in goals:
        subject, reference = places[repr(goal.method)], places[repr(goal.reference)]
        ratios = [turn[subject][unit] / turn[reference][unit] for turn in turns]
        low, middle, high = statistics.quantiles(ratios, n=4)
        most = "" if goal.most is None else f"{goal.most:g}"
        lines.append(f"| {goal.name} | {middle:.3f} | {low:.3f}-{high:.3f} | {most} |")
    return [*lines, "", f"Ratios of {unit}, {rounds} turns.", ""]


def _step_of(
    subject: Method | Step, base: nn.Module, batch: dict[str, Tensor], held_out: dict[str, Tensor]
) -> Callable[[], Any]:
    if not isinstance(subject, Method):
        return subject(base, batch)
    loop = loop_over(base, subject, held_out)
    return lambda: loop.train_step(batch)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shapes", nargs="+", default=[*SHAPES], choices=SHAPES)
    parser.add_argument("--rounds", type=int, default=15, help="turns, at least 2")
    parser.add_argument("--only", default="", help="regular expression on the names of goals")
    given = parser.parse_args(arguments)
    goals = [goal for goal in gates() + ranks() if re.search(given.only, goal.name)]
    torch.set_num_threads(1)
    for shape in given.shapes:
        print("\n".join(measure(shape, goals, given.rounds)), flush=True)


if __name__ == "__main__":
    main()
