"""What was measured, as JSON, as Markdown tables and as a plot."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Iterable, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from benchmarks.shapes import SHAPES

Row = dict[str, Any]

BEGIN, END = "<!-- tables: written by `make bench` -->", "<!-- end of tables -->"
COLOURS = {"floor": "#888888", "full": "#888888", "peft": "#d08020", "rankwright": "#2060b0"}


Tables = dict[str, list[Row]]
"""Rows of the tables `layers` and `methods`."""


def write(found: Tables, folder: Path | None) -> None:
    """Print the tables; with a folder, put them between the marks of its benchmark.md as well.

    Args:
        found: Rows of some models.
        folder: Gets benchmark.json and benchmark.svg too. Tables of other models that were
            measured there on such a machine stay.
    """
    print(tables(found))
    if folder is None:
        return
    record, page = folder / "benchmark.json", folder / "benchmark.md"
    everything = merged(json.loads(record.read_text()) if record.exists() else {}, found)
    record.write_text(json.dumps({"machine": machine(), **everything}, indent=1) + "\n")
    (folder / "benchmark.svg").write_text(plot(everything["layers"]))
    before, _, rest = page.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n\n{tables(everything)}\n{END}{after}")


def merged(old: dict[str, Any], found: Tables) -> Tables:
    """The tables that were found, and the others that were there, model by model.

    Args:
        old: What benchmark.json held; it counts if it is from such a machine.
        found: New rows.
    """
    same, order = old.get("machine") == machine(), list(SHAPES)
    tables = {}
    for name, rows in found.items():
        shapes = {row["shape"] for row in rows}
        others = [row for row in old.get(name, ()) if same and row["shape"] not in shapes]
        tables[name] = sorted(others + rows, key=lambda row: order.index(row["shape"]))
    return tables


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    cuda = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if cuda else _processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft")},
    }


def tables(found: dict[str, list[Row]]) -> str:
    """Markdown."""
    facts = "; ".join(f"{name} {value}" for name, value in machine().items())
    parts = [f"Measured on: {facts}.\n"]
    for shape, rows in _by_shape(found["layers"]):
        what = f"forward and backward, {rows[0]['turns']} turns"
        parts += [f"\n### {SHAPES[shape].title}: {what}\n", _layer_table(rows)]
    for shape, rows in _by_shape(found["methods"]):
        what = f"whole optimizer steps, {rows[0]['turns']} turns"
        parts += [f"\n### {SHAPES[shape].title}: {what}\n", _method_table(rows)]
    return "\n".join(parts) + "\n"


def plot(rows: list[Row]) -> str:
    """Ratios to the floor as an SVG: a bar a variant, a whisker from quartile to quartile."""
    line, left, scale = 18, 230, 150
    shapes = [(shape, list(group)) for shape, group in _by_shape(rows)]
    drawn, y = [], 10
    for shape, group in shapes:
        y += line + 6
        drawn.append(_text(10, y, SHAPES[shape].title + ": time over the floor's", "bold"))
        for row in group:
            y += line
            low, middle, high = (left + scale * ratio for ratio in row[_unit(row)]["ratio"])
            drawn += [
                _text(10, y, row["name"]),
                f'<rect x="{left}" y="{y - 11}" width="{middle - left:.1f}" height="13" '
                f'fill="{COLOURS[row["by"]]}"/>',
                f'<path d="M{low:.1f} {y - 5}H{high:.1f}" stroke="black" stroke-width="2"/>',
                _text(high + 6, y, f"{row[_unit(row)]['ratio'][1]:.2f}"),
            ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="780" height="{y + 20}" '
        'font-family="sans-serif" font-size="12">\n'
        '<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(drawn) + "\n</svg>\n"
    )


def _layer_table(rows: Sequence[Row]) -> str:
    floor = rows[0]
    lines = [
        [
            row["name"],
            *_times(row),
            f"{row['saved_bytes'] / floor['saved_bytes']:.3f}",
            f"{row['saved_bytes'] / 2**20:.1f}",
            "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:.0f}",
        ]
        for row in rows
    ]
    head = ["", *_time_heads(floor), "saved / floor", "saved (MiB)", "peak (MiB)"]
    return table(head, lines)


def _method_table(rows: Sequence[Row]) -> str:
    dora = next(row for row in rows if row["name"] == "dora")
    unit = _unit(dora)
    lines = [
        [
            row["name"],
            *_times(row),
            f"{row[unit]['median'] / dora[unit]['median']:.2f}",
            f"{row['passes']:.2f}",
        ]
        for row in rows
    ]
    return table(["", *_time_heads(dora), "in DoRA steps", "passes"], lines)


def _time_heads(row: Row) -> list[str]:
    others = [f"{unit} / floor" for unit in _units(row)[1:]]
    return [f"{_unit(row)} / floor", "quartiles", *others, "ms"]


def _times(row: Row) -> list[str]:
    first, *others = _units(row)
    low, middle, high = row[first]["ratio"]
    return [
        f"**{middle:.2f}**",
        f"{low:.2f}-{high:.2f}",
        *(f"{row[unit]['ratio'][1]:.2f}" for unit in others),
        f"{row['ms']['median']:.0f}",
    ]


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Markdown of a table."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows)


def _by_shape(rows: list[Row]) -> Iterable[tuple[str, list[Row]]]:
    return [(shape, list(group)) for shape, group in groupby(rows, lambda row: row["shape"])]


def _units(row: Row) -> list[str]:
    return [unit for unit in ("cycles", "instructions", "ms") if unit in row]


def _unit(row: Row) -> str:
    return _units(row)[0]


def _text(x: float, y: float, text: str, weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y}" font-weight="{weight}">{escape(text)}</text>'


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
