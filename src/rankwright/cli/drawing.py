"""The log of a run as one picture: a panel for every quantity, all over the same steps.

matplotlib draws it, because `rankwright plot` writes files for papers, issues and chats (PNG, PDF,
SVG), which have no pointer and no theme. It is an optional dependency; the report of a study needs
hover texts, theme colours and no extra package, and is drawn by `study/report/plots` instead.
"""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankwright.axis import Axis, format_tick
from rankwright.cli.run_log import TRAINING, VALIDATION, Quantity, RunLog
from rankwright.errors import MethodError

_COLOURS = {TRAINING: "#0b65a8", VALIDATION: "#c2560a"}
_INK, _SOFT, _GRID, _BAND = "#1b2228", "#5b6670", "#dde2e5", "#f1f4f6"
_SINGLE_COLUMN = 3
"""Up to this number, panels stand in one column; more stand in two."""
_FEW_POINTS = 30
"""Up to this number, the points of a line are marked."""
_Y_TICKS, _X_TICKS = 6, 9
# Inches.
_PANEL = {1: (6.4, 1.35), 2: (4.1, 1.3)}
_LEFT, _RIGHT, _BETWEEN, _ABOVE, _BOTTOM = 0.75, 0.25, 0.85, 0.42, 0.55
_LINE, _PHASE_LETTER = 0.2, 0.068
_HEADER_LETTERS = {1: 115, 2: 150}
"""Letters of a header line that fit into the width of one and of two columns."""
_OFFSET = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "bottom"}


def draw(log: RunLog) -> Any:
    """Return a matplotlib figure of a run's log.

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
    lines = _header(log, columns)
    layout = _Layout(len(curves), columns, len(lines), named=len(log.phases) > 1)
    figure = Figure(figsize=(layout.width, layout.height), dpi=150)
    _write_header(figure, lines, layout)
    for number, quantity in enumerate(curves):
        axes = figure.add_axes(layout.panel(number))
        named = layout.named and number < columns
        _draw_panel(axes, quantity, pad=16 if named else 5)
        _draw_phases(axes, log, _PANEL[columns][0] if named else 0.0)
        _draw_steps(axes, log, labelled=number + columns >= len(curves))
    return figure


def save(figure: Any, target: Path) -> None:
    """Write a figure to an image file; in SVG, text stays text that can be searched and selected.

    Raises:
        OSError: The file cannot be written.
        ValueError: matplotlib does not know the format that the file name ends in.
    """
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(target)


@dataclass(frozen=True)
class _Layout:
    """Sizes and places on the figure, in inches.

    Attributes:
        panels: Number of panels.
        columns: Number of columns of panels.
        lines: Lines of the header.
        named: Whether the names of phases stand above the first row.
    """

    panels: int
    columns: int
    lines: int
    named: bool

    @property
    def header(self) -> float:
        """Height of the header."""
        return (0.3 if self.named else 0.15) + _LINE * self.lines

    @property
    def width(self) -> float:
        """Width of the figure."""
        return (
            _LEFT + self.columns * _PANEL[self.columns][0] + (self.columns - 1) * _BETWEEN + _RIGHT
        )

    @property
    def height(self) -> float:
        """Height of the figure."""
        rows = max(1, math.ceil(self.panels / self.columns))
        return self.header + rows * (_PANEL[self.columns][1] + _ABOVE) + _BOTTOM

    def panel(self, number: int) -> tuple[float, float, float, float]:
        """Return left, bottom, width and height of a panel, as shares of the figure."""
        row, column = divmod(number, self.columns)
        width, height = _PANEL[self.columns]
        left = _LEFT + column * (width + _BETWEEN)
        bottom = self.height - self.header - (row + 1) * (height + _ABOVE)
        return (
            left / self.width, bottom / self.height, width / self.width, height / self.height,
        )  # fmt: skip


def _header(log: RunLog, columns: int) -> list[str]:
    """Return title, results and the quantities that did not change, wrapped to the width."""
    constants = [
        f"{quantity.name}{_rows_of(quantity)} {_format(quantity.constant)}"
        for quantity in log.quantities.values()
        if quantity.constant is not None
    ]
    lines = [log.title, log.summary]
    if constants:
        lines.append("the same throughout: " + ", ".join(constants))
    most = _HEADER_LETTERS[columns]
    return [lines[0], *(part for line in lines[1:] for part in textwrap.wrap(line, most))]


def _rows_of(quantity: Quantity) -> str:
    return "" if TRAINING in quantity.lines else " (validation)"


def _format(value: float) -> str:
    """Format a value to three digits, large ones as whole numbers: `0.0005`, `7,200`."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _write_header(figure: Any, lines: list[str], layout: _Layout) -> None:
    for number, text in enumerate(lines):
        y = 1 - (0.22 + _LINE * number + (0.05 if number else 0)) / layout.height
        size, weight, colour = (8, "normal", _SOFT) if number else (11, "bold", _INK)
        figure.text(
            0.15 / layout.width, y, text, va="center", fontsize=size, fontweight=weight,
            color=colour,
        )  # fmt: skip


def _draw_panel(axes: Any, quantity: Quantity, pad: float) -> None:
    """Draw one quantity, with its name and the names of its lines `pad` points above it."""
    for rows, line in quantity.lines.items():
        marker = "o" if rows == VALIDATION or len(line.steps) <= _FEW_POINTS else None
        axes.plot(
            line.steps, line.values, color=_COLOURS[rows], marker=marker, markersize=3.5,
            linewidth=1.4, label=rows, clip_on=False, zorder=3,
        )  # fmt: skip
    title = ", ".join(filter(None, (quantity.name, quantity.unit)))
    axes.annotate(title, (0, 1), xytext=(0, pad), ha="left", fontsize=9, color=_INK, **_OFFSET)
    named = [*quantity.lines] if VALIDATION in quantity.lines else []
    for number, rows in enumerate(reversed(named)):
        place = {"xy": (1, 1), "xytext": (-52 * number, pad), "ha": "right"}
        axes.annotate(rows, color=_COLOURS[rows], fontsize=7.5, **place, **_OFFSET)
    values = [value for line in quantity.lines.values() for value in line.values]
    axis = Axis.over(values, room=0.05, bounds=quantity.bounds)
    axes.set_ylim(axis.low, axis.high)
    _set_ticks(axes.yaxis, axis.tick_values(_Y_TICKS, whole=quantity.whole))
    axes.grid(axis="y", color=_GRID, linewidth=0.6, zorder=0)
    axes.tick_params(labelsize=7.5, colors=_SOFT, length=2.5, width=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set(color=_SOFT, linewidth=0.6)


def _draw_steps(axes: Any, log: RunLog, *, labelled: bool) -> None:
    """Draw the axis that all panels share: whole steps, from 0 to the last."""
    axis = Axis(0, max(1, log.steps), 0, 1)
    axes.set_xlim(axis.low, axis.high)
    _set_ticks(axes.xaxis, axis.tick_values(_X_TICKS, whole=True))
    if labelled:
        axes.set_xlabel("optimizer step", fontsize=8, color=_SOFT)
    else:
        axes.tick_params(axis="x", labelbottom=False)


def _set_ticks(axis: Any, values: list[float]) -> None:
    axis.set_ticks(values, [format_tick(value) for value in values])


def _draw_phases(axes: Any, log: RunLog, width: float) -> None:
    """Draw phases as bands; named, or numbered if the names do not fit into `width` inches."""
    if len(log.phases) < 2:
        return
    start = 0
    for number, (name, steps) in enumerate(log.phases):
        if number % 2 == 0:
            axes.axvspan(start, start + steps, color=_BAND, linewidth=0, zorder=0)
        if start:
            axes.axvline(start, color=_SOFT, linewidth=0.6, linestyle=(0, (3, 3)), zorder=1)
        text = _fit_name(name, number, width * steps / log.steps)
        axes.annotate(
            text, (start + steps / 2, 1), xytext=(0, 3), ha="center", fontsize=7, color=_SOFT,
            **{**_OFFSET, "xycoords": ("data", "axes fraction")},
        )  # fmt: skip
        start += steps


def _fit_name(name: str, number: int, room: float) -> str:
    """Return the name of a phase, its number, or nothing: the first that fits `room` inches."""
    for text in (name, str(number + 1)):
        if _PHASE_LETTER * len(text) < room:
            return text
    return ""
