"""The folder of a run: what lies where, and how it is read."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

import rankwright.methods  # noqa: F401  registers every method
from rankwright.core.describe import build_method, plain, registered_name
from rankwright.core.method import Method
from rankwright.core.part_registry import SLOTS
from rankwright.errors import FieldError, MethodError
from rankwright.job.config import TrainConfig
from rankwright.job.files import json_text, read_mapping, write_json, write_text
from rankwright.job.paths import DESCRIPTION, expanded, relocated
from rankwright.tasks.yaml_loader import NumberDumper, NumberLoader, yaml_problem
from rankwright.training import checkpoint
from rankwright.training.cost import Cost
from rankwright.training.manifest import (
    MANIFEST,
    ManifestError,
    check_files,
    file_entries,
    load_manifest,
    manifest_text,
    text_entry,
)

T = TypeVar("T")
RESULT = "result.json"


@dataclass(frozen=True)
class RunFolder:
    """What a run leaves on disk.

    Attributes:
        path: The folder.
        config: The description of the run.
        method: The method with its hyperparameters.
    """

    path: Path
    config: TrainConfig
    method: Method

    @property
    def adapter(self) -> Path:
        """The PEFT adapter, with the tokenizer beside it."""
        return self.path / "adapter"

    @property
    def head(self) -> Path:
        """Class and labels that the base model is loaded with, as JSON."""
        return self.path / "head.json"

    @property
    def data(self) -> Path:
        """Number and digest of the rows of every split, as JSON."""
        return self.path / "data.json"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints of the training."""
        return self.path / "checkpoints"

    @property
    def clock(self) -> Path:
        """Wall time in seconds up to the newest checkpoint, as JSON."""
        return self.checkpoints / "seconds.json"

    @property
    def result(self) -> Path:
        """Metrics and cost as JSON."""
        return self.path / RESULT

    @property
    def history(self) -> Path:
        """What was logged while training, as a JSON list."""
        return self.path / "history.json"

    @property
    def description(self) -> Path:
        """Model, task, method and every option as YAML; `--config` repeats the run."""
        return self.path / DESCRIPTION

    @property
    def resume(self) -> str:
        """The command that goes on with the run."""
        return _resume(self.path)

    @property
    def manifest(self) -> Path:
        """Size and digest of every file of a finished run, as JSON."""
        return self.path / MANIFEST

    def write_description(self) -> None:
        """Write `run.yaml`, and its folder into the manifest: moved paths are found from there."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.manifest, manifest_text({}, folder=str(self.path.absolute())))
        values = {**self.config.as_dict(), "method": self._method_values(), **self._parts()}
        write_text(self.description, yaml.dump(values, Dumper=NumberDumper, sort_keys=False))

    def options(self) -> dict[str, Any]:
        """Every option by its name on the command line, as YAML values."""
        method = {f"method.{name}": value for name, value in self._method_values().items()}
        return {**plain(dataclasses.asdict(self.config)), **method, **self._parts()}

    def _method_values(self) -> dict[str, Any]:
        name = registered_name(type(self.method))
        return {"name": name, **plain(self.method.hyperparameters())}

    def _parts(self) -> dict[str, Any]:
        described: dict[str, Any] = plain(self.method.plugged.describe())
        for slot, parts in described.items():
            for part in parts:
                for name, value in part.items():
                    if callable(value):
                        raise MethodError(
                            f"{slot} {part['name']!r}: {name} is a function, which {self.path} "
                            "cannot hold; give it a part of your own (package.module:Class), or "
                            "train with rankwright.training.Trainer"
                        )
        return described

    def finish(
        self, history: Sequence[Mapping[str, Any]], result: Mapping[str, Any], **facts: Any
    ) -> None:
        """Write the log, the digests of all files and last the result, which marks it as finished.

        Args:
            history: What was logged, one entry a logging step.
            result: A `RunResult` as a dictionary.
            facts: Further entries of the manifest; JSON values.
        """
        write_json(self.history, history)
        text = json_text(result) + "\n"
        files = file_entries(self.path, filter(Path.is_file, self._read_later()))
        files[self.result.name] = text_entry(text)
        write_text(self.manifest, manifest_text(files, folder=self._described_in(), **facts))
        write_text(self.result, text)

    def reopen(self) -> None:
        """Mark the run as not finished."""
        write_text(self.manifest, manifest_text({}, folder=self._described_in()))
        self.result.unlink(missing_ok=True)

    def check(self) -> None:
        """See `check_run`."""
        check_run(self.path)

    def _described_in(self) -> str:
        return str(described_in(self.path) or self.path.absolute())

    def _read_later(self) -> list[Path]:
        """Files that are read of a finished run; users may edit the card of the adapter."""
        adapter = [path for path in self.adapter.rglob("*") if path.name != "README.md"]
        return [self.description, self.head, self.data, self.history, *adapter]

    def logged(self) -> list[dict[str, Any]]:
        """Read what was logged so far, one entry a logging step; also of an unfinished run.

        Raises:
            MethodError: Nothing is on disk yet, or the log is not whole.
        """
        if self.history.is_file():
            return read_whole(self.history, _entries)
        newest = checkpoint.newest_complete(self.checkpoints)
        if newest is None:
            raise MethodError(
                f"{self.path} holds no log yet: the run is not finished and has no checkpoint"
            )
        return read_whole(newest / "trainer_state.json", _entries_of_state)

    def splits(self) -> dict[str, dict[str, Any]]:
        """Read number and digest of the rows of every split.

        Raises:
            MethodError: The file is missing or damaged.
        """
        return read_whole(self.data, _splits)

    def outcome(self) -> dict[str, Any]:
        """Read the `RunResult` of a finished run, as a dictionary.

        Raises:
            MethodError: The file is missing or damaged.
        """
        return read_whole(self.result, _outcome)

    @classmethod
    def read(cls, path: str | os.PathLike[str], *, check: bool = True) -> RunFolder:
        """The run in a folder.

        Args:
            path: The folder.
            check: Compare the files of a finished run with their digests.

        Raises:
            MethodError: The folder holds no run, or a file of it is not what the run wrote.
        """
        folder = expanded(path)
        file = folder / DESCRIPTION
        if not file.exists():
            raise MethodError(
                f"{folder} holds no run: there is no {DESCRIPTION} in it; expected a folder that "
                "`rankwright train` wrote"
            )
        if check:
            check_run(folder)
        text = read_whole(file, lambda path: path.read_text("utf-8"))
        try:
            values = with_paths_found(dict(yaml.load(text, Loader=NumberLoader)), folder)
            method = build_method(values.pop("method"), _taken(values))
            return cls(folder, TrainConfig(**values), method)
        except (AttributeError, FieldError, KeyError, TypeError, yaml.YAMLError) as error:
            problem = yaml_problem(error)
            raise MethodError(
                f"{file} does not describe a run ({problem}); expected the file as `rankwright "
                "train` wrote it"
            ) from error


def check_run(folder: Path) -> None:
    """Compare the files of a finished run with their digests; runs of version 0.1 have none.

    Raises:
        MethodError: A file is missing, or is not what the run wrote.
    """
    if not (folder / MANIFEST).exists():
        return
    with telling_edits():
        files = load_manifest(folder)["files"]
        if files and not (folder / RESULT).exists():  # killed just before it was written
            raise MethodError(
                f"{folder} lacks {RESULT}: the run is not finished. Go on with: {_resume(folder)}"
            )
        check_files(folder, files)


def described_in(folder: Path) -> Path | None:
    """The folder in which `run.yaml` was written; None if it was not recorded."""
    try:
        noted = load_manifest(folder).get("folder")
    except (ManifestError, OSError):
        return None
    return Path(noted) if isinstance(noted, str) else None


def with_paths_found(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The options of a run, with the paths of files that moved together with its folder.

    Args:
        values: The options in its `run.yaml`.
        folder: Its folder now.
    """
    old = described_in(folder)
    return values if old is None else relocated(values, old, folder)


@contextlib.contextmanager
def telling_edits() -> Iterator[None]:
    """Turn a difference from the manifest into an error that says what to do.

    Raises:
        MethodError: The comparison within found a difference.
    """
    try:
        yield
    except (ManifestError, OSError) as error:
        raise MethodError(
            f"{error}; expected the whole folder as `rankwright train` wrote it. Restore the file, "
            "or run it again; if you changed it on purpose, read on with --edited (check=False in "
            "Python)"
        ) from error


def _resume(folder: Path) -> str:
    return f"rankwright train --config {shlex.quote(str(folder / DESCRIPTION))} --resume"


def _taken(values: dict[str, Any]) -> dict[str, Any]:
    """The plugged parts, taken out of a description."""
    return {slot: values.pop(slot) for slot in SLOTS if slot in values}


def _splits(path: Path) -> dict[str, dict[str, Any]]:
    splits = read_mapping(path)
    if not all(isinstance(split, dict) and "rows" in split for split in splits.values()):
        raise TypeError("rows and their digest by split were expected")
    return splits


def _outcome(path: Path) -> dict[str, Any]:
    outcome = read_mapping(path)
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


def _entries(path: Path) -> list[dict[str, Any]]:
    return _checked_entries(json.loads(path.read_text("utf-8")))


def _entries_of_state(path: Path) -> list[dict[str, Any]]:
    return _checked_entries(json.loads(path.read_text("utf-8"))["log_history"])


def _checked_entries(entries: Any) -> list[dict[str, Any]]:
    if not isinstance(entries, list):
        raise TypeError(f"a list of entries was expected, not {type(entries).__name__}")
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict) or type(entry.get("step")) is not int:
            raise TypeError(f"entry {number} is {entry!r:.60}; expected values by name, and a step")
    return entries


def read_whole(path: Path, read: Callable[[Path], T]) -> T:
    """Read a file of a run.

    Raises:
        MethodError: It is missing or damaged.
    """
    try:
        return read(path)
    except MethodError:  # of another file
        raise
    except OSError as error:
        raise incomplete(path, error.strerror or error) from error
    except KeyError as error:
        raise incomplete(path, f"it lacks {error.args[0]}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise incomplete(path, error) from error


def incomplete(path: Path, problem: object) -> MethodError:
    """The error about a file of a run that cannot be read."""
    said = " ".join(str(problem).split())
    return MethodError(
        f"cannot read {path}: {said}; expected the whole folder as `rankwright train` wrote it"
    )
