"""Read the files of a run; a missing or damaged one is an error that names it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from rankwright.errors import MethodError
from rankwright.job.files import read_mapping
from rankwright.training.cost import Cost

T = TypeVar("T")


def read_run_file(path: Path, read: Callable[[Path], T]) -> T:
    """Read a file of a run.

    Args:
        path: The file.
        read: Returns its content.

    Raises:
        MethodError: The file is missing or damaged.
    """
    try:
        return read(path)
    except MethodError:  # about another file
        raise
    except OSError as error:
        raise incomplete_error(path, error.strerror or error) from error
    except KeyError as error:
        raise incomplete_error(path, f"it lacks {error.args[0]}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise incomplete_error(path, error) from error


def incomplete_error(path: Path, problem: object) -> MethodError:
    """Return the error about a file of a run that cannot be read."""
    reason = " ".join(str(problem).split())
    return MethodError(
        f"cannot read {path}: {reason}; expected the whole folder as `rankwright train` wrote it"
    )


def read_history(path: Path) -> list[dict[str, Any]]:
    """Read `history.json`, one entry per logging step.

    Raises:
        MethodError: The file is missing or damaged.
    """
    return read_run_file(path, lambda file: _check_entries(_read_json(file)))


def read_trainer_state(path: Path) -> list[dict[str, Any]]:
    """Read the log in the Trainer's state of a checkpoint, one entry per logging step.

    Raises:
        MethodError: The file is missing or damaged.
    """
    return read_run_file(path, lambda file: _check_entries(_read_json(file)["log_history"]))


def read_splits(path: Path) -> dict[str, dict[str, Any]]:
    """Read `data.json`: number and digest of the rows of every split.

    Raises:
        MethodError: The file is missing or damaged.
    """
    return read_run_file(path, lambda file: _check_splits(read_mapping(file)))


def read_outcome(path: Path) -> dict[str, Any]:
    """Read `result.json`: a `RunResult` as a dictionary.

    Raises:
        MethodError: The file is missing or damaged.
    """
    return read_run_file(path, lambda file: _check_outcome(read_mapping(file)))


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def _check_entries(entries: Any) -> list[dict[str, Any]]:
    if not isinstance(entries, list):
        raise TypeError(f"a list of entries was expected, not {type(entries).__name__}")
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict) or type(entry.get("step")) is not int:
            raise TypeError(f"entry {number} is {entry!r:.60}; expected values by name, and a step")
    return entries


def _check_splits(splits: dict[str, Any]) -> dict[str, dict[str, Any]]:
    if not all(isinstance(split, dict) and "rows" in split for split in splits.values()):
        raise TypeError("rows and their digest by split were expected")
    return splits


def _check_outcome(outcome: dict[str, Any]) -> dict[str, Any]:
    _check_keys(outcome, "task", "primary_metric", "train_rows", "versions", "before", "after")
    for name in ("versions", "before", "after"):
        _check_keys(outcome[name])
    _check_keys(outcome.get("cost"), *(field.name for field in dataclasses.fields(Cost)))
    return outcome


def _check_keys(values: Any, *names: str) -> None:
    if not isinstance(values, dict):
        raise TypeError(f"values by name were expected, not {values!r:.60}")
    for name in names:
        if name not in values:
            raise KeyError(name)
