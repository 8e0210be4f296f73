"""The folder of a run: its files, how they are written and how they are read."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import rankwright.methods  # noqa: F401  registers every method
from rankwright.core.describe import build_method, plain, registered_name
from rankwright.core.method import Method
from rankwright.core.part_registry import SLOTS
from rankwright.errors import FieldError, MethodError
from rankwright.job.config import TrainConfig
from rankwright.job.files import json_text, write_json, write_text
from rankwright.job.integrity import RESULT, check_run, original_folder
from rankwright.job.paths import DESCRIPTION, expanded, resume_command
from rankwright.job.relocation import relocate
from rankwright.job.run_files import (
    read_history,
    read_outcome,
    read_run_file,
    read_splits,
    read_trainer_state,
)
from rankwright.training import checkpoint
from rankwright.training.manifest import MANIFEST, file_entries, manifest_text, text_entry
from rankwright.yaml_loader import NumberDumper, NumberLoader, yaml_problem


@dataclass(frozen=True)
class RunFolder:
    """The files of a run.

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
        """The class and labels that the base model is loaded with, as JSON."""
        return self.path / "head.json"

    @property
    def data(self) -> Path:
        """Number and digest of the rows of every split, as JSON."""
        return self.path / "data.json"

    @property
    def checkpoints(self) -> Path:
        """The checkpoints of the training."""
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
        """The log of the training, as a JSON list."""
        return self.path / "history.json"

    @property
    def description(self) -> Path:
        """Model, task, method and every option as YAML; `--config` repeats the run with it."""
        return self.path / DESCRIPTION

    @property
    def resume(self) -> str:
        """The command that continues the run."""
        return resume_command(self.path)

    @property
    def manifest(self) -> Path:
        """Size and digest of every file of a finished run, as JSON."""
        return self.path / MANIFEST

    def write_description(self) -> None:
        """Write `run.yaml`, and its folder into the manifest, to find paths again after a move."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.manifest, manifest_text({}, folder=str(self.path.absolute())))
        values = {**self.config.as_dict(), "method": self._method_fields(), **self._plugged_parts()}
        write_text(self.description, yaml.dump(values, Dumper=NumberDumper, sort_keys=False))

    def options(self) -> dict[str, Any]:
        """Return every option by its name on the command line, as YAML values."""
        method = {f"method.{name}": value for name, value in self._method_fields().items()}
        return {**plain(dataclasses.asdict(self.config)), **method, **self._plugged_parts()}

    def _method_fields(self) -> dict[str, Any]:
        name = registered_name(type(self.method))
        return {"name": name, **plain(self.method.hyperparameters())}

    def _plugged_parts(self) -> dict[str, Any]:
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
        """Write the log, the manifest and last the result, which marks the run as finished.

        Args:
            history: The log, one entry per logging step.
            result: A `RunResult` as a dictionary.
            facts: Further entries of the manifest; JSON values.
        """
        write_json(self.history, history)
        text = json_text(result) + "\n"
        files = file_entries(self.path, filter(Path.is_file, self._checked_files()))
        files[self.result.name] = text_entry(text)
        write_text(self.manifest, manifest_text(files, folder=self._original_folder(), **facts))
        write_text(self.result, text)

    def reopen(self) -> None:
        """Mark the run as not finished."""
        write_text(self.manifest, manifest_text({}, folder=self._original_folder()))
        self.result.unlink(missing_ok=True)

    def check(self) -> None:
        """Compare the files with their digests; see `check_run`.

        Raises:
            MethodError: A file is missing, or is not what the run wrote.
        """
        check_run(self.path)

    def _original_folder(self) -> str:
        return str(original_folder(self.path) or self.path.absolute())

    def _checked_files(self) -> list[Path]:
        """Return the files that the manifest lists; users may edit the card of the adapter."""
        adapter = [path for path in self.adapter.rglob("*") if path.name != "README.md"]
        return [self.description, self.head, self.data, self.history, *adapter]

    def logged(self) -> list[dict[str, Any]]:
        """Read the log so far, one entry per logging step; the run need not be finished.

        Raises:
            MethodError: Nothing is on disk yet, or the log is damaged.
        """
        if self.history.is_file():
            return read_history(self.history)
        newest = checkpoint.newest_complete(self.checkpoints)
        if newest is None:
            raise MethodError(
                f"{self.path} holds no log yet: the run is not finished and has no checkpoint"
            )
        return read_trainer_state(newest / "trainer_state.json")

    def splits(self) -> dict[str, dict[str, Any]]:
        """Read number and digest of the rows of every split.

        Raises:
            MethodError: The file is missing or damaged.
        """
        return read_splits(self.data)

    def outcome(self) -> dict[str, Any]:
        """Read the `RunResult` of a finished run, as a dictionary.

        Raises:
            MethodError: The file is missing or damaged.
        """
        return read_outcome(self.result)

    @classmethod
    def read(cls, path: str | os.PathLike[str], *, check: bool = True) -> RunFolder:
        """Read the description of the run in a folder.

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
        text = read_run_file(file, lambda path: path.read_text("utf-8"))
        try:
            values = find_moved_paths(dict(yaml.load(text, Loader=NumberLoader)), folder)
            parts = {slot: values.pop(slot) for slot in SLOTS if slot in values}
            method = build_method(values.pop("method"), parts)
            return cls(folder, TrainConfig(**values), method)
        except (AttributeError, FieldError, KeyError, TypeError, yaml.YAMLError) as error:
            problem = yaml_problem(error)
            raise MethodError(
                f"{file} does not describe a run ({problem}); expected the file as `rankwright "
                "train` wrote it"
            ) from error


def find_moved_paths(options: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the options of a run, with the paths of files that moved together with its folder.

    Args:
        options: The options in its `run.yaml`.
        folder: Its folder now.
    """
    old = original_folder(folder)
    return options if old is None else relocate(options, old, folder)
