"""The kinds of tasks, and the kind that options or the columns of a file determine."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rankwright.tasks.base import Task
from rankwright.tasks.causal_lm import CausalLM
from rankwright.tasks.csv_files import parse_delimiter
from rankwright.tasks.errors import TaskError, listing
from rankwright.tasks.files import files_of, first_columns
from rankwright.tasks.layouts import Layout, layout_of, unknown_layout
from rankwright.tasks.multi_label import MultiLabel
from rankwright.tasks.multiple_choice import MultipleChoice
from rankwright.tasks.options import DATA_FILES, Options, convert
from rankwright.tasks.regression import Regression
from rankwright.tasks.sequence_classification import SequenceClassification
from rankwright.tasks.token_classification import TokenClassification

KINDS: dict[str, type[Task]] = {
    task.kind: task
    for task in (
        SequenceClassification,
        Regression,
        MultiLabel,
        TokenClassification,
        CausalLM,
        MultipleChoice,
    )
}
TELLING: dict[str, type[Task]] = {
    "tags_column": TokenClassification,
    "choices_column": MultipleChoice,
    "prompt_column": CausalLM,
    "completion_column": CausalLM,
    "label_column": SequenceClassification,
}
"""Options that imply a kind where none is named; the first one that is set decides."""


def find_kind(options: Options) -> tuple[type[Task], tuple[str, ...]]:
    """Return the kind that is named or inferred, and notices; sets options of usual columns.

    Raises:
        TaskError: If the kind is unknown, or nothing determines it.
    """
    named = options.values.get("kind")
    if named is not None and named not in KINDS:
        raise options.error("kind", f"{named!r} is unknown; expected one of {', '.join(KINDS)}.")
    implied = next((t.kind for o, t in TELLING.items() if options.values.get(o) is not None), None)
    kind: str | None = named or implied
    path = _first_file(options)
    if path is not None and (path.is_file() or kind is None):
        return _kind_of_file(options, path, named, implied)
    if kind is None:
        raise TaskError(
            "option kind: not set, and no column option implies it; expected one of "
            f"{', '.join(KINDS)}."
        )
    return KINDS[kind], ()


def _kind_of_file(
    options: Options, path: Path, named: str | None, implied: str | None
) -> tuple[type[Task], tuple[str, ...]]:
    """Do the same for a file, by its columns."""
    delimiter = options.values.get("delimiter")
    character = parse_delimiter(delimiter) if isinstance(delimiter, str) else None
    found = first_columns(path, character)
    given = {
        name: str(value)
        for name, value in options.values.items()
        if name.endswith("_column") and value is not None
    }
    if named is not None and columns_of(KINDS[named], given) <= {*found}:
        return KINDS[named], ()
    layout = layout_of(found, given, named or implied)
    if layout is None and named is None:
        layout = layout_of(found, given)
    if layout is None:
        kind = named or implied
        if kind is None:
            raise unknown_layout(path, found)
        return KINDS[kind], ()
    already_set = {name: value for name, value in options.values.items() if value is not None}
    options.values |= layout.options(found, {**given, **already_set})
    if named is None and layout.kind == implied:
        return KINDS[layout.kind], ()
    return KINDS[layout.kind], (_layout_notice(path, layout, found, given),)


def _layout_notice(
    path: Path, layout: Layout, found: tuple[str, ...], given: Mapping[str, str]
) -> str:
    further = [column for column in layout.optional if column in found]
    columns = [*{**layout.columns, **given}.values(), *further]
    subject = f"columns {listing(columns)} are" if len(columns) > 1 else f"column {columns[0]} is"
    return f"{path}: the {subject} read as {layout.kind}"


def columns_of(task: type[Task], given: Mapping[str, str]) -> set[str]:
    """Return the columns that a kind of task reads: the user's names, else its defaults."""
    fields = {field.name: field.default for field in dataclasses.fields(task)}
    columns = {name: value for name, value in fields.items() if name.endswith("_column")}
    return {str(value) for value in {**columns, **given}.values() if value is not None}


def _first_file(options: Options) -> Path | None:
    """Return the first file of training rows; `None` if the rows are not in files."""
    values: dict[str, Any] = {
        name: value for name, value in options.values.items() if name in ("train", "root")
    }
    try:
        values["train"] = convert(values.get("train"), DATA_FILES)
    except TypeError:  # the check of all options reports it
        return None
    train = Options(values, options.path, options.lines).data_path("train")
    return None if train is None else files_of(train)[0]


def describe_kinds() -> str:
    """Return a line for every kind: a summary, and the columns that it reads by default."""
    lines = ["kinds of tasks, and the columns that each reads by default:", ""]
    for kind, task in KINDS.items():
        summary = (task.__doc__ or "").strip().partition("\n")[0]
        columns = listing(sorted(columns_of(task, {})))
        lines.append(f"  {kind:<24} {summary} [{columns}]")
    return "\n".join(lines)
