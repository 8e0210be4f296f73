"""Make tasks from a name, a YAML file or data files, with one set of options for all of them."""

from __future__ import annotations

import dataclasses
import os
import re
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rankwright.tasks.base import Task
from rankwright.tasks.csv_files import parse_delimiter
from rankwright.tasks.errors import TaskError, listing
from rankwright.tasks.files import READERS, is_data_file
from rankwright.tasks.glue import GLUE, glue_options
from rankwright.tasks.hub import Hub
from rankwright.tasks.kinds import find_kind
from rankwright.tasks.options import DATA_FILES, Options, read_yaml
from rankwright.tasks.sources import Files, Source
from rankwright.tasks.stdlib_docs import StdlibDocs

STDLIB_DOCS = "stdlib-docs"
BUILT_IN_TOKENS = 32
"""`max_length` of the built-in task: enough for most docstrings, fast enough for a laptop."""
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
    **dict.fromkeys(FILES, DATA_FILES),
}


def load_task(spec: str | os.PathLike[str], **overrides: object) -> Task:
    """Make the task that a short text names, without reading its data.

    Args:
        spec: One of

            - `stdlib-docs`, the built-in task;
            - `glue/rte`, or `rte`, and the other GLUE tasks, or any data set on the hub as
              `owner/name`;
            - a file `my.yaml` with options, see docs/tasks.md;
            - a data file with one of the extensions in `READERS`, to train on.
        **overrides: Options of `task_from_files`; they override those of the spec.

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
    """Return the name of the task that `load_task` would make of a short text.

    Returns:
        The `name` in a YAML file, if there is one; otherwise for YAML and data files the file name
        without folders and extensions; any other text unchanged.

    Raises:
        TaskError: If it is a YAML file that cannot be read.
    """
    path = Path(spec)
    if path.suffix in {".yaml", ".yml"}:
        return str(read_yaml(path).values.get("name", file_name(path)))
    return file_name(path) if is_data_file(path) else spec


def file_name(path: Path) -> str:
    """Return the name of a file without folders and extensions.

    It is `reviews` for `data/reviews.jsonl.gz`. For a pattern it is the part before the first
    wildcard: `part` for `part-*.csv`.
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
    """Make a task from data files; only the columns of the first row are read.

    Args:
        train: The training file, with one of the extensions in `READERS`; or several, or a pattern
            such as `part-*.jsonl`.
        validation: The validation file; without it, give `validation_share`.
        test: The test file.
        **options: `validation_share` and `seed` of the split; `root`, the folder that relative
            paths start at; `delimiter` of CSV files; `kind`, inferred from the columns if left out;
            `name`, `max_length`, `metrics`, `primary_metric`, `skip_bad_rows`; and the fields of
            that kind's class, such as `text_column` and `label_column`.

    Raises:
        TaskError: If an option is unknown, missing or of a wrong type.
    """
    return _build(Options({"train": train, "validation": validation, "test": test, **options}))


def _build(options: Options, *, built_in: bool = False) -> Task:
    """Check all options and makes the task."""
    task, notes = find_kind(options)
    hints = typing.get_type_hints(task)
    fields = {f.name: hints[f.name] for f in dataclasses.fields(task) if f.name != "source"}
    splitting = {name: COMMON[name] for name in ("kind", "primary_metric", *SPLITTING)}
    options.check(fields | (splitting if built_in else COMMON))
    options.take(["kind"])
    source = StdlibDocs(**options.take(SPLITTING)) if built_in else _source(options, notes)
    _put_primary_first(options, task)
    return task(source=source, **options.values)


def _source(options: Options, notes: tuple[str, ...]) -> Source:
    """Remove the options that determine where the rows are, and return the source."""
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
        delimiter=None if delimiter is None else parse_delimiter(delimiter),
        notes=notes,
        **splitting,
    )


def _put_primary_first(options: Options, task: type[Task]) -> None:
    """Turn the option `primary_metric` into the order of `metrics`."""
    default = next(f.default for f in dataclasses.fields(task) if f.name == "metrics")
    metrics = options.values.get("metrics", default)
    primary = options.values.pop("primary_metric", None)
    if primary is None:
        return
    if primary not in metrics:
        raise options.error("primary_metric", f"{primary!r} is not in metrics: {listing(metrics)}.")
    options.values["metrics"] = (primary, *(name for name in metrics if name != primary))
