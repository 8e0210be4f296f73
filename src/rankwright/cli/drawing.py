"""The log of a run as one picture: a panel for every quantity, all over the same steps."""

from __future__ import annotations

import math
import textwrap
from typing import Any

from rankwright.cli.run_log import TRAINING, VALIDATION, Quantity, RunLog
from rankwright.errors import MethodError

_COLOURS = {TRAINING: "#0b65a8", VALIDATION: "#c2560a"}
_INK, _SOFT, _GRID, _BAND = "#1b2228", "#5b6670", "#dde2e5", "#f1f4f6"
_SINGLE_COLUMN = 3
"""Up to so many panels stand under one another, more in two columns."""
_FEW_POINTS = 30
"""Up to so many points are marked."""
# Inches.
_PANEL = {1: (6.4, 1.35), 2: (4.1, 1.3)}
_LEFT, _RIGHT, _BETWEEN, _ABOVE, _BOTTOM = 0.75, 0.25, 0.85, 0.42, 0.55
_LINE, _PHASE_LETTER = 0.2, 0.068
_OFFSET = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "bottom"}


def draw(log: RunLog) -> Any:
    """A matplotlib figure.

    Raises:
        MethodError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MethodError(
            "a plot needs matplotlib, which comes with an extra: pip install 'rankwright[plot]'"
        ) from error
    curves = [q for q in log.quantities.values() if q.constant is None]
    columns = 1 if len(curves) <= _SINGLE_COLUMN else 2
    rows = max(1, math.ceil(len(curves) / columns))
    lines = _header(log, columns)
    width, height = _PANEL[columns]
    header = (0.3 if len(log.phases) > 1 else 0.15) + _LINE * len(lines)
    total_width = _LEFT + columns * width + (columns - 1) * _BETWEEN + _RIGHT
    total_height = header + rows * (height + _ABOVE) + _BOTTOM
    figure = Figure(figsize=(total_width, total_height), dpi=150)
    for number, text in enumerate(lines):
        y = 1 - (0.22 + _LINE * number + (0.05 if number else 0)) / total_height
        size, weight, colour = (8, "normal", _SOFT) if number else (11, "bold", _INK)
        figure.text(
            0.15 / total_width, y, text, va="center", fontsize=size, fontweight=weight, color=colour
        )
    for number, quantity in enumerate(curves):
        row, column = divmod(number, columns)
        left = _LEFT + column * (width + _BETWEEN)
        bottom = total_height - header - (row + 1) * (height + _ABOVE)
        axes = figure.add_axes((
            left / total_width, bottom / total_height, width / total_width, height / total_height,
        ))  # fmt: skip
        named = row == 0 and len(log.phases) > 1
        _panel(axes, quantity, pad=16 if named else 5)
        _phases(axes, log, width if named else 0.0)
        _steps(axes, log, labelled=number + columns >= len(curves))
    return figure


def _header(log: RunLog, columns: int) -> list[str]:
    """Title, results, and the quantities that did not change, wrapped to the width."""
    constants = [
        f"{quantity.name}{_of(quantity)} {_number(quantity.constant)}"
        for quantity in log.quantities.values()
        if quantity.constant is not None
    ]
    lines = [log.title, log.summary]
    if constants:
        lines.append("the same throughout: " + ", ".join(constants))
    most = {1: 115, 2: 150}[columns]  # letters of a line
    return [lines[0], *(part for line in lines[1:] for part in textwrap.wrap(line, most))]


def _of(quantity: Quantity) -> str:
    return "" if TRAINING in quantity.lines else " (validation)"


def _number(value: float) -> str:
    """A value to three digits, large ones as whole numbers: `0.0005`, `7,200`."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _panel(axes: Any, quantity: Quantity, pad: float) -> None:
    """Draw one quantity; `pad` points above it its name, and the names of its lines."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    for of, line in quantity.lines.items():
        marker = "o" if of == VALIDATION or len(line.steps) <= _FEW_POINTS else None
        axes.plot(
            line.steps, line.values, color=_COLOURS[of], marker=marker, markersize=3.5,
            linewidth=1.4, label=of, clip_on=False, zorder=3,
        )  # fmt: skip
    title = ", ".join(filter(None, (quantity.name, quantity.unit)))
    axes.annotate(title, (0, 1), xytext=(0, pad), ha="left", fontsize=9, color=_INK, **_OFFSET)
    named = [*quantity.lines] if VALIDATION in quantity.lines else []
    for number, of in enumerate(reversed(named)):
        place = {"xy": (1, 1), "xytext": (-52 * number, pad), "ha": "right"}
        axes.annotate(of, color=_COLOURS[of], fontsize=7.5, **place, **_OFFSET)
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, quantity.bounds[0]), min(high, quantity.bounds[1]))
    axes.grid(axis="y", color=_GRID, linewidth=0.6, zorder=0)
    axes.tick_params(labelsize=7.5, colors=_SOFT, length=2.5, width=0.6)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=quantity.whole))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _number(value)))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set(color=_SOFT, linewidth=0.6)


def _steps(axes: Any, log: RunLog, *, labelled: bool) -> None:
    """The axis that all panels share: whole steps, from 0 to the last."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_xlim(0, max(1, log.steps))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    if labelled:
        axes.set_xlabel("optimizer step", fontsize=8, color=_SOFT)
    else:
        axes.tick_params(axis="x", labelbottom=False)


def _phases(axes: Any, log: RunLog, width: float) -> None:
    """Draw phases as bands; named, or numbered if the names do not fit into `width` inches."""
    if len(log.phases) < 2:
        return
    start = 0
    for number, (name, steps) in enumerate(log.phases):
        if number % 2 == 0:
            axes.axvspan(start, start + steps, color=_BAND, linewidth=0, zorder=0)
        if start:
            axes.axvline(start, color=_SOFT, linewidth=0.6, linestyle=(0, (3, 3)), zorder=1)
        text = _fitting(name, number, width * steps / log.steps)
        axes.annotate(
            text, (start + steps / 2, 1), xytext=(0, 3), ha="center", fontsize=7, color=_SOFT,
            **{**_OFFSET, "xycoords": ("data", "axes fraction")},
        )  # fmt: skip
        start += steps


def _fitting(name: str, number: int, room: float) -> str:
    """The name of a phase, its number, or nothing, whichever fits into `room` inches."""
    for text in (name, str(number + 1)):
        if _PHASE_LETTER * len(text) < room:
            return text
    return ""
