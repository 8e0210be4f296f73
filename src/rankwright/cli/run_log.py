"""The log of a run as named quantities over its steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rankwright.job import RunFolder
from rankwright.job.observing import PHASES
from rankwright.tasks.metrics import METRICS

TRAINING, VALIDATION = "training", "validation"
_EVALUATION = "eval_"
_BESIDES = ("step", "epoch", "total_flos", "passes", "num_input_tokens_seen")
"""Keys of the Trainer's log that are not measurements."""
_TIMES = ("_runtime", "_per_second")
_NAMES = {
    "learning_rate": ("learning rate", ""),
    "grad_norm": ("gradient norm", "before clipping"),
    "penalty": ("penalty", "added to the loss"),
    "mean_rank": ("mean rank", "of a module"),
    "kept_parameters": ("kept parameters", ""),
    "sparsity": ("sparsity", "share of ranks that are off"),
    "xi": ("threshold ξ", ""),
    "noise": ("noise", "strength"),
    "upper_loss": ("upper loss", "on held-out rows"),
    "hypergradient_norm": ("hypergradient norm", ""),
    "implicit_to_direct": ("hypergradient", "implicit over direct part"),
    "mse": ("mean squared error", "squared units of the target"),
    "loss_per_token": ("loss per token", "nats"),
    "bleu": ("BLEU", "0 to 100"),
    "matthews": ("Matthews correlation", ""),
    "pearson": ("Pearson correlation", ""),
    "spearman": ("Spearman correlation", ""),
    "macro_f1": ("macro F1", ""),
    "micro_f1": ("micro F1", ""),
    "binary_f1": ("F1 of class 1", ""),
    "entity_f1": ("entity F1", ""),
}
"""Logged name -> name in plots, and unit."""
_LAST = ("learning_rate", "grad_norm")
"""Quantities that are plotted last."""


@dataclass(frozen=True)
class Line:
    """Values over optimizer steps."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, step: int, value: float) -> None:
        """Append a point."""
        self.steps.append(step)
        self.values.append(value)


@dataclass(frozen=True)
class Quantity:
    """The values logged under one name.

    Attributes:
        name: Its name in plots.
        unit: Its unit, or a word that explains the name; may be empty.
        lines: The values on `TRAINING` and on `VALIDATION` rows.
        bounds: The smallest and the largest possible values.
    """

    name: str
    unit: str
    lines: Mapping[str, Line]
    bounds: tuple[float, float] = (-math.inf, math.inf)

    @property
    def constant(self) -> float | None:
        """The value of all points; None if they differ."""
        values = {value for line in self.lines.values() for value in line.values}
        return values.pop() if len(values) == 1 else None

    @property
    def whole(self) -> bool:
        """Whether all values are integers, such as the number of a round."""
        return all(value.is_integer() for line in self.lines.values() for value in line.values)


@dataclass(frozen=True)
class RunLog:
    """The log of a run, finished or not.

    Attributes:
        title: Method, task and seed.
        summary: Its results, or its progress.
        quantities: Quantities by logged name, without the prefix of evaluations.
        phases: Name and number of steps of every phase; empty if they were not logged.
        steps: Number of steps of the run.
    """

    title: str
    summary: str
    quantities: Mapping[str, Quantity]
    phases: Sequence[tuple[str, int]]
    steps: int

    @classmethod
    def of(cls, folder: RunFolder) -> RunLog:
        """Read the log of a run so far.

        Raises:
            MethodError: Nothing is on disk yet, or a file is damaged.
        """
        entries = folder.logged()
        result = folder.outcome() if folder.result.is_file() else {}
        phases = [(p["name"], p["steps"]) for entry in entries for p in entry.get(PHASES, ())]
        last = max((int(entry["step"]) for entry in entries), default=0)
        steps = sum(steps for _, steps in phases) or last
        quantities = _quantities(entries, result, steps)
        return cls(_title(folder, result), _summary(result, last, steps), quantities, phases, steps)


def _title(folder: RunFolder, result: Mapping[str, Any]) -> str:
    task = result.get("task") or folder.config.make_task().name
    return f"{folder.method.label} on {task}, seed {folder.config.seed}"


def _summary(result: Mapping[str, Any], last: int, steps: int) -> str:
    if not result:
        return f"not finished: step {last} of {steps}"
    name, cost = result["primary_metric"], result["cost"]
    split = "validation" if name in result["after"] else "test"
    after = result["after" if split == "validation" else "test"].get(name)
    before = result["before"].get(name) if split == "validation" else None
    parts = [] if after is None else [
        f"{split} {_named(name)[0]} "
        + (f"{before:.4g} → {after:.4g}" if before is not None else f"{after:.4g}")
    ]  # fmt: skip
    parts.append(f"{cost['steps']:,} steps, {cost['passes']:,g} passes")
    parts.append(f"{cost['training_seconds']:.3g} s of training")
    if evaluation := result.get("evaluation_seconds"):
        parts.append(f"{evaluation:.3g} s of validation while training")
    return "; ".join(parts)


def _quantities(
    entries: Iterable[Mapping[str, Any]], result: Mapping[str, Any], steps: int
) -> dict[str, Quantity]:
    lines: dict[str, dict[str, Line]] = {}
    for entry in entries:
        if PHASES in entry or "train_runtime" in entry:  # about the whole run
            continue
        for logged, value in entry.items():
            if logged in _BESIDES or logged.endswith(_TIMES) or not isinstance(value, int | float):
                continue
            of = VALIDATION if logged.startswith(_EVALUATION) else TRAINING
            line = lines.setdefault(logged.removeprefix(_EVALUATION), {}).setdefault(of, Line())
            line.add(int(entry["step"]), float(value))
    for key, found in lines.items():
        if VALIDATION in found:
            found[VALIDATION] = _with_ends(found[VALIDATION], key, result, steps)
    unit = _unit_of_loss(lines)
    return {key: _quantity(key, lines[key], unit) for key in sorted(lines, key=_order)}


def _with_ends(line: Line, metric: str, result: Mapping[str, Any], steps: int) -> Line:
    """Add the metric before training, and after training if that was not logged."""
    values = dict(zip(line.steps, line.values, strict=True))
    for step, known in ((0, "before"), (steps, "after")):
        if metric in result.get(known, {}):
            values.setdefault(step, result[known][metric])
    ordered = sorted(values.items())
    return Line([step for step, _ in ordered], [value for _, value in ordered])


def _quantity(key: str, lines: Mapping[str, Line], unit_of_loss: str) -> Quantity:
    name, unit = ("loss", unit_of_loss) if key == "loss" else _named(key)
    if key in METRICS:
        return Quantity(name, unit, lines, (METRICS[key].low, METRICS[key].high))
    return Quantity(name, unit, lines)


def _named(key: str) -> tuple[str, str]:
    return _NAMES.get(key, (key.replace("_", " "), ""))


def _order(key: str) -> tuple[int, str]:
    """Sort key: loss, metrics, measurements of the method, learning rate, gradient norm."""
    if key in _LAST:
        return 3 + _LAST.index(key), key
    return (0 if key == "loss" else 1 if key in METRICS else 2), key


def _unit_of_loss(lines: Mapping[str, Mapping[str, Line]]) -> str:
    """Return nats for cross-entropy and squared units for a squared error, by the metrics."""
    metrics = [METRICS[key] for key in lines if key in METRICS]
    if not metrics:
        return ""
    return "squared units" if any("numbers" in m.forms for m in metrics) else "nats"
