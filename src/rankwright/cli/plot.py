"""A picture of what was logged while a run trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rankwright.core.errors import MethodError
from rankwright.job import RunFolder
from rankwright.job.paths import expanded

Series = Mapping[str, tuple[list[int], list[float]]]
"""Quantity -> its steps and values."""

# What the Trainer logs beside what was measured.
_BESIDES = ("step", "epoch", "total_flos", "passes", "num_input_tokens_seen")
_COLUMNS = 3
_WIDTH, _HEIGHT = 3.6, 2.4  # inches, of one quantity


def plot(run: str, *, only: Sequence[str] | None, edited: bool, output: str | None) -> int:
    """Draw the log of a run, one small picture a quantity.

    Args:
        run: Folder of the run.
        only: Quantities to draw; None for all.
        edited: Read on where a file is not what the run wrote.
        output: Image file; None for RUN/plot.png.
    """
    folder = RunFolder.read(run, check=not edited)
    series = series_of(folder.logged())
    target = expanded(output) if output else folder.path / "plot.png"
    figure = draw(_chosen(series, only), title=folder.path.name)
    try:
        figure.savefig(target)
    except (OSError, ValueError) as error:
        raise MethodError(f"cannot write {target}: {error}") from error
    print(f"plot: {target}")
    return 0


def series_of(entries: Sequence[Mapping[str, float]]) -> Series:
    """The logged quantities over the optimizer steps, the loss first, without running times."""
    series: dict[str, tuple[list[int], list[float]]] = {}
    for entry in entries:
        if "train_runtime" in entry:  # the summary at the end is no point of a curve
            continue
        for name, value in entry.items():
            if name in _BESIDES or name.endswith(("_runtime", "_per_second")):
                continue
            if isinstance(value, int | float):
                steps, values = series.setdefault(name, ([], []))
                steps.append(int(entry["step"]))
                values.append(float(value))
    return dict(sorted(series.items(), key=lambda item: (item[0] != "loss", item[0])))


def draw(series: Series, title: str) -> Any:
    """A matplotlib figure with one axes a quantity.

    Raises:
        MethodError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MethodError(
            "a plot needs matplotlib, which comes with an extra: pip install 'rankwright[plot]'"
        ) from error
    rows, columns = math.ceil(len(series) / _COLUMNS), min(len(series), _COLUMNS)
    figure = Figure(figsize=(_WIDTH * columns, _HEIGHT * rows), layout="constrained", dpi=150)
    figure.suptitle(title)
    for number, (name, (steps, values)) in enumerate(series.items(), start=1):
        axes = figure.add_subplot(rows, columns, number)
        axes.plot(steps, values, marker="." if len(steps) < 30 else None)
        axes.set_title(name)
        axes.set_xlabel("optimizer step")
        axes.grid(alpha=0.3)
    return figure


def _chosen(series: Series, only: Sequence[str] | None) -> Series:
    missing = [name for name in only or () if name not in series]
    if missing or not series:
        raise MethodError(
            f"the run logged no {' and no '.join(missing) or 'numbers'}; it logged "
            f"{', '.join(series) or 'nothing'}"
        )
    return series if only is None else {name: series[name] for name in only}
