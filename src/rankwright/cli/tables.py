"""What the command line shows: the result of a run, the methods there are, one method in full."""

from __future__ import annotations

import sys
import textwrap

import rich.box
from jsonargparse import ArgumentParser
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from rankwright.core.registry import available, get
from rankwright.job import RunResult


def result_table(result: RunResult) -> Table:
    """Metrics before and after, and the cost."""
    table = Table(
        title=f"{result.method} on {result.task} ({result.model}, seed {result.seed})",
        box=rich.box.SIMPLE_HEAD,
    )
    for column in ("", "before", "after"):
        table.add_column(column, justify="left" if not column else "right")
    for name, value in result.after.items():
        before = result.before.get(name)
        bold = "bold" if name == result.primary_metric else ""
        table.add_row(
            f"validation {name}", "" if before is None else f"{before:.4f}", f"{value:.4f}",
            style=bold,
        )  # fmt: skip
    for name, value in result.test.items():
        table.add_row(f"test {name}", "", f"{value:.4f}")
    cost = result.cost
    table.add_section()
    for name, text in (
        ("training rows", f"{result.train_rows:,}"),
        ("trainable parameters", f"{cost.trainable_parameters:,}"),
        ("stored parameters", f"{cost.stored_parameters:,}"),
        ("peak memory", f"{cost.peak_memory_bytes / 2**20:,.0f} MiB"),
        ("step time, median", f"{cost.median_step_seconds:.3f} s"),
        ("steps, passes", f"{cost.steps}, {cost.passes:g}"),
        ("wall time", f"{result.seconds:.0f} s"),
    ):
        table.add_row(name, "", text)
    return table


def methods_table() -> Table:
    """What each method does, the slots it fills, what it leaves, what it costs."""
    table = Table(box=rich.box.SIMPLE_HEAD)
    for column in ("method", "what it does", "slots filled", "artefact", "cost"):
        table.add_column(column, overflow="fold")
    for name, cls in available().items():
        slots = cls().slots()
        table.add_row(
            name, cls.summary, ", ".join(slots.filled()) or "none", slots.export.artefact, cls.cost
        )
    return table


def show_method(name: str) -> None:
    """Print equations, reference, fields and defaults of a method."""
    cls = get(name)
    console = Console()
    module = sys.modules[cls.__module__]
    console.print(textwrap.dedent(module.__doc__ or "").strip(), highlight=False, markup=False)
    console.print(Markdown(f"**Reference:** {cls.reference}\n\n**Cost:** {cls.cost}"))
    parser = ArgumentParser(prog="", usage="")
    parser.add_class_arguments(cls, "method")
    text = parser.format_help()
    print(text[text.index("--method.") :].rstrip() if "--method." in text else text)
