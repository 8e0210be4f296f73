"""Tables on the command line: the result of a run, the methods and parts, one of them in full."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import rich.box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from rankwright.core.export import FORM_NAMES, Export
from rankwright.core.method import Method
from rankwright.core.method_registry import available_methods
from rankwright.core.part_fields import inherited_meanings
from rankwright.core.part_registry import SLOTS, available_parts, summary
from rankwright.errors import MethodError, did_you_mean
from rankwright.job import RunResult


def result_table(result: RunResult) -> Table:
    """Return a table of the metrics before and after training, and of the cost."""
    table = Table(
        title=Text(f"{result.method} on {result.task} ({result.model}, seed {result.seed})"),
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
        ("validation during training", f"{result.evaluation_seconds:.0f} s"),
    ):
        table.add_row(name, "", text)
    return table


def methods_table() -> Table:
    """Return a table of the methods: summary, slots, artefact and cost."""
    table = Table(box=rich.box.SIMPLE_HEAD, show_lines=True)
    table.add_column("method", style="bold")
    table.add_column("summary, slots, artefact and cost")
    for name, cls in available_methods().items():
        slots = cls().slots()
        facts = Table.grid(padding=(0, 2))
        facts.add_row("slots", Text(", ".join(slots.filled()) or "none: the plain layer and AdamW"))
        facts.add_row("artefact", Text(slots.export.artefact))
        facts.add_row("cost", Text(cls.cost))
        facts.add_row("exports", Text(", ".join(_accuracies(slots.export))))
        table.add_row(name, Group(Text(cls.summary), facts))
    return table


def _accuracies(export: Export) -> list[str]:
    """Return every form of an adapter with its accuracy."""
    return [f"{name} {export.form(name).accuracy}" for name in FORM_NAMES]


def print_method(cls: type[Method]) -> None:
    """Print equations, reference, cost, and every field with its default."""
    print((sys.modules[cls.__module__].__doc__ or cls.__doc__ or "").strip())
    print(f"\nreference: {cls.reference}\ncost: {cls.cost}")
    tuned = "; ".join(f"{name} ({choice})" for name, choice in cls.space.items())
    print(f"tuned by compare --tune: {tuned}")
    _print_export(cls().slots().export)
    print(f"\n--method {cls.name}")
    inherited = {field.name for field in dataclasses.fields(Method)}
    meanings = inherited_meanings(cls)
    own = Table(title="its own options", box=rich.box.SIMPLE_HEAD, title_justify="left")
    shared = Table(title="options of every method", box=rich.box.SIMPLE_HEAD, title_justify="left")
    for table in (own, shared):
        for column in ("option", "default", "meaning"):
            table.add_column(column)
    for field in dataclasses.fields(cls):
        if field.name == "plugged":
            continue
        table = shared if field.name in inherited else own
        name, default = f"--method.{field.name}", _default(field)
        table.add_row(name, Text(default), Text(meanings.get(field.name, "")))
    for table in (own, shared):
        if table.row_count:
            Console().print(table)


def _print_export(export: Export) -> None:
    """Print how an adapter is saved, and its forms."""
    side_files = "".join(f", {name}" for name in export.side_files)
    print(f"saved as: {export.artefact} (PEFT type {export.peft_type}{side_files})")
    for name in FORM_NAMES:
        print(f"export --as {name}: {export.form(name)}")


def parts_table() -> Table:
    """Return a table of the parts that can be plugged onto a method, by slot."""
    table = Table(box=rich.box.SIMPLE_HEAD)
    for column in ("slot", "part", "summary"):
        table.add_column(column, style="bold" if column == "part" else "")
    for slot in SLOTS:
        for number, (name, cls) in enumerate(available_parts(slot).items()):
            table.add_row("" if number else slot, name, Text(summary(cls)))
        table.add_section()
    return table


def print_parts(name: str) -> None:
    """Print the parts with this name, and every field with its default.

    Raises:
        MethodError: There is no such part.
    """
    found = {slot: available_parts(slot)[name] for slot in SLOTS if name in available_parts(slot)}
    if not found:
        known = [part for slot in SLOTS for part in available_parts(slot)]
        hint = did_you_mean(name, known)
        raise MethodError(f"unknown part {name!r}; expected one of {', '.join(known)}{hint}")
    for slot, cls in found.items():
        print((sys.modules[cls.__module__].__doc__ or "").strip())
        print(f"\n{summary(cls)}\n\n--{slot} {name}")
        table, meanings = Table(box=rich.box.SIMPLE_HEAD), inherited_meanings(cls)
        for column in ("option", "default", "meaning"):
            table.add_column(column)
        for field in dataclasses.fields(cls):  # type: ignore[arg-type]
            if field.repr:
                text = meanings.get(field.name, "")
                table.add_row(f"--{slot}.{field.name}", Text(_default(field)), Text(text))
        if table.row_count:
            Console().print(table)


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return str(field.default_factory())
    value = "" if field.default is dataclasses.MISSING else field.default
    return f"{value:.4g}" if isinstance(value, float) else str(value)
