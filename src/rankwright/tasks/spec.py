"""From a name, a YAML file or data files to a task: one vocabulary of options for all of them."""

from __future__ import annotations

import dataclasses
import os
import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rankwright.tasks.base import Task
from rankwright.tasks.causal_lm import CausalLM
from rankwright.tasks.errors import TaskError, listing
from rankwright.tasks.files import READERS, files_of, first_columns, is_data_file
from rankwright.tasks.glue import GLUE, glue_options
from rankwright.tasks.layouts import layout_of, untold
from rankwright.tasks.multi_label import MultiLabel
from rankwright.tasks.multiple_choice import MultipleChoice
from rankwright.tasks.options import Options, converted, read_yaml
from rankwright.tasks.regression import Regression
from rankwright.tasks.sequence_classification import SequenceClassification
from rankwright.tasks.sources import Files, Hub, Source
from rankwright.tasks.stdlib_docs import StdlibDocs
from rankwright.tasks.token_classification import TokenClassification

STDLIB_DOCS = "stdlib-docs"
# Enough to tell most docstrings by, and few enough for a first try on a laptop.
BUILT_IN_TOKENS = 32
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
# Where the kind is not named, the first of these options that is set tells it.
TELLING: dict[str, type[Task]] = {
    "tags_column": TokenClassification,
    "choices_column": MultipleChoice,
    "prompt_column": CausalLM,
    "completion_column": CausalLM,
    "label_column": SequenceClassification,
}
FILES = ("train", "validation", "test")
SPLITTING = ("validation_share", "seed")
COMMON: dict[str, Any] = {
    "kind": str,
    "primary_metric": str | None,
    "validation_share": float | None,
    "seed": int,
    "hub": str | None,
    "hub_config": str | None,
    "hub_splits": dict | None,
    "root": str | None,
    "delimiter": str | None,
    **dict.fromkeys(FILES, tuple[str, ...] | None),
}


def load_task(spec: str | os.PathLike[str], **overrides: object) -> Task:
    """Finds or makes the task that a short text names. Reads no data yet.

    Args:
        spec: One of

            - `stdlib-docs`, the built-in task;
            - `glue/rte`, or `rte`, and its siblings, or any other data set of the hub as
              `owner/name`;
            - a file `my.yaml` that holds options, see docs/tasks.md;
            - a data file with one of the endings of `READERS`, to train on.
        **overrides: Options of `task_from_files`, which win over those of the spec.

    Raises:
        TaskError: If there is no such task, or an option is unknown, missing or of a wrong type.
    """
    text = os.fspath(spec)
    if text == STDLIB_DOCS:
        options = Options({"name": text, "label_column": "package", "max_length": BUILT_IN_TOKENS})
    elif text.startswith("glue/") or text in GLUE:
        options = Options(glue_options(text.removeprefix("glue/")))
    elif Path(text).suffix in {".yaml", ".yml"}:
        options = read_yaml(Path(text))
        options.values.setdefault("name", file_name(Path(text)))
    elif is_data_file(Path(text)):
        options = Options({"train": text})
    elif re.fullmatch(r"[\w.-]+/[\w.-]+", text) and not Path(text).is_file():
        options = Options({"hub": text, "name": text})
    else:
        raise TaskError(
            f"task {text!r} is unknown; expected {STDLIB_DOCS}, glue/<name>, a hub data set as "
            f"owner/name, a .yaml file, or a data file ({', '.join(READERS)})."
        )
    options.override(overrides)
    return _build(options, built_in=text == STDLIB_DOCS)


def task_name(spec: str) -> str:
    """Returns the name of the task that `load_task` would make of a short text.

    Returns:
        The `name` in a YAML file, if there is one; else for YAML and data files the file name
        without folders and endings; any other text as it is.

    Raises:
        TaskError: If it is a YAML file that cannot be read.
    """
    path = Path(spec)
    if path.suffix in {".yaml", ".yml"}:
        return str(read_yaml(path).values.get("name", file_name(path)))
    return file_name(path) if is_data_file(path) else spec


def file_name(path: Path) -> str:
    """The name of a file without folders and endings: `reviews` of `data/reviews.jsonl.gz`.

    For a pattern it is the part before the first wildcard: `part` of `part-*.csv`.
    """
    name = path.name.split(".")[0]
    return re.split(r"[*?\[]", name)[0].rstrip("-_") or "data"


PathLike = str | os.PathLike[str]


def task_from_files(
    train: PathLike | Sequence[PathLike],
    validation: PathLike | Sequence[PathLike] | None = None,
    test: PathLike | Sequence[PathLike] | None = None,
    **options: object,
) -> Task:
    """Makes a task of data files; reads the columns of the first row only.

    Args:
        train: The file to learn from, with one of the endings of `READERS`; or several, or a
            pattern such as `part-*.jsonl`.
        validation: What to choose by; without it, give `validation_share`.
        test: What to report on.
        **options: `validation_share` and `seed` of the split; `root`, the folder that relative
            paths start at; `delimiter` of CSV files; `kind`, inferred from the columns if left out;
            `name`, `max_length`, `metrics`, `primary_metric`, `skip_bad_rows`; and the fields of
            that kind's class, such as `text_column` and `label_column`.

    Raises:
        TaskError: If an option is unknown, missing or of a wrong type.
    """
    return _build(Options({"train": train, "validation": validation, "test": test, **options}))


def _build(options: Options, *, built_in: bool = False) -> Task:
    """Checks all options and makes the task."""
    task, notes = _kind(options)
    hints = typing.get_type_hints(task)
    fields = {f.name: hints[f.name] for f in dataclasses.fields(task) if f.name != "source"}
    splitting = {name: COMMON[name] for name in ("kind", "primary_metric", *SPLITTING)}
    options.check(fields | (splitting if built_in else COMMON))
    options.take(["kind"])
    source = StdlibDocs(**options.take(SPLITTING)) if built_in else _source(options, notes)
    _put_primary_first(options, task)
    return task(source=source, **options.values)


def _kind(options: Options) -> tuple[type[Task], tuple[str, ...]]:
    """Returns the kind that is named or inferred, and notices; sets options of usual columns."""
    named = options.values.get("kind")
    if named is not None and named not in KINDS:
        raise options.error("kind", f"{named!r} is unknown; expected one of {', '.join(KINDS)}.")
    told = next((t.kind for o, t in TELLING.items() if options.values.get(o) is not None), None)
    kind: str | None = named or told
    path = _first_file(options)
    if path is not None and (path.is_file() or kind is None):
        return _kind_of_file(options, path, named, told)
    if kind is None:
        raise TaskError(
            f"option kind: not set, and no column tells it; expected one of {', '.join(KINDS)}."
        )
    return KINDS[kind], ()


def _kind_of_file(
    options: Options, path: Path, named: str | None, told: str | None
) -> tuple[type[Task], tuple[str, ...]]:
    """Returns the same for a file, whose columns are looked at."""
    delimiter = options.values.get("delimiter")
    found = first_columns(path, separator(delimiter) if isinstance(delimiter, str) else None)
    given = {
        name: str(value)
        for name, value in options.values.items()
        if name.endswith("_column") and value is not None
    }
    if named is not None and _defaults(KINDS[named], given) <= {*found}:
        return KINDS[named], ()
    layout = layout_of(found, given, named or told)
    if layout is None and named is None:
        layout = layout_of(found, given)
    if layout is None:
        kind = named or told
        if kind is None:
            raise untold(path, found)
        return KINDS[kind], ()
    options.values |= layout.options(found, {**given, **_set(options)})
    further = [column for column in layout.optional if column in found]
    columns = [*{**layout.columns, **given}.values(), *further]
    what = f"columns {listing(columns)} are" if len(columns) > 1 else f"column {columns[0]} is"
    note = f"{path}: the {what} read as {layout.kind}"
    said = named is None and layout.kind == told
    return KINDS[layout.kind], () if said else (note,)


def _set(options: Options) -> dict[str, Any]:
    return {name: value for name, value in options.values.items() if value is not None}


def _defaults(task: type[Task], given: Mapping[str, str]) -> set[str]:
    """The columns that a kind of task reads: the user's names, else its defaults."""
    fields = {field.name: field.default for field in dataclasses.fields(task)}
    columns = {name: value for name, value in fields.items() if name.endswith("_column")}
    return {str(value) for value in {**columns, **given}.values() if value is not None}


def _first_file(options: Options) -> Path | None:
    """The first file of training rows; `None` if the rows are not in files."""
    values = {name: value for name, value in options.values.items() if name in ("train", "root")}
    try:
        values["train"] = converted(values.get("train"), COMMON["train"])
    except TypeError:  # which the check of all options names
        return None
    train = Options(values, options.path, options.lines).data_path("train")
    return None if train is None else files_of(train)[0]


def _source(options: Options, notes: tuple[str, ...]) -> Source:
    """Takes the options that say where the rows are out of the others."""
    hub = options.take(["hub", "hub_config", "hub_splits"])
    splitting = options.take(SPLITTING)
    train, validation, test = map(options.data_path, FILES)
    options.take(["root"])
    delimiter = options.values.pop("delimiter", None)
    if (train is None) == (hub.get("hub") is None):
        raise TaskError("options train and hub: expected exactly one of them, to say what to read.")
    if train is None:
        for option, path in (("validation", validation), ("test", test)):
            if path is not None:
                raise options.error(
                    option, f"a file ({path}) does not go with hub; map its splits with hub_splits."
                )
        config, splits = hub.get("hub_config"), hub.get("hub_splits")
        return Hub(path=hub["hub"], config=config, splits=splits, **splitting)
    options.values.setdefault("name", file_name(train[0] if isinstance(train, tuple) else train))
    return Files(
        train=train,
        validation=validation,
        test=test,
        delimiter=None if delimiter is None else separator(delimiter),
        notes=notes,
        **splitting,
    )


def kinds_in_words() -> str:
    """A line for every kind: a summary, and the columns that it reads by default."""
    lines = ["kinds of tasks, and the columns that each reads by default:", ""]
    for kind, task in KINDS.items():
        summary = (task.__doc__ or "").strip().partition("\n")[0]
        columns = listing(sorted(_defaults(task, {})))
        lines.append(f"  {kind:<24} {summary} [{columns}]")
    return "\n".join(lines)


def separator(text: str) -> str:
    """Returns the character that the option `delimiter` means: a character, or `tab`.

    Raises:
        TaskError: If it is not one character.
    """
    character = {"tab": "\t", "\\t": "\t"}.get(text, text)
    if len(character) != 1 or character in '"\r\n ':
        raise TaskError(
            f"delimiter={text!r}: expected one character, the separator of cells, or tab."
        )
    return character


def _put_primary_first(options: Options, task: type[Task]) -> None:
    """Turns the option `primary_metric` into the order of `metrics`."""
    default = next(f.default for f in dataclasses.fields(task) if f.name == "metrics")
    metrics = options.values.get("metrics", default)
    primary = options.values.pop("primary_metric", None)
    if primary is None:
        return
    if primary not in metrics:
        raise options.error("primary_metric", f"{primary!r} is not in metrics: {listing(metrics)}.")
    options.values["metrics"] = (primary, *(name for name in metrics if name != primary))
