"""The folder of a study.

```
DIR/
  study.json                    methods, tasks, seeds, budget, planned runs: one StudyRecord
  records/<run>.json            one RunRecord for every finished run
  records/<run>.parquet         Examples of that run: its outcome on every row
  failures/<run>.json           one FailureRecord for every run that ended with an error
  tuning/<task>--<label>.json   one TuningRecord for every method tuned on a task
  tuning/trials.db              the trials, unless another storage is named
  runs/<run>/                   the files of `rankwright train`, and the log of the process
```

Instead of the folders `records`, `failures` and `tuning`, a packed study has one file:

```
  records.parquet               all of their files; see rankwright.study.records.packed
```

`StudyFolder` reads both forms; if a file is present in both, it reads the unpacked one. `pack`
writes the second form, and continuing a study turns it back into the first.

A run's name is `<task>--<label>--<seed>`. A label is the study's name for one of its methods: the
method's own name, or another one if the study has the method several times with different
hyperparameters. Every file is written atomically.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from rankwright.errors import MethodError
from rankwright.job.files import write_bytes
from rankwright.job.integrity import check_run, explain_edits
from rankwright.study.records.examples import Examples
from rankwright.study.records.json_record import Record
from rankwright.study.records.names import to_file_name
from rankwright.study.records.packed import read_packed, write_packed
from rankwright.study.records.records import FailureRecord, RunRecord, StudyRecord
from rankwright.study.records.tuning import TuningRecord
from rankwright.training.manifest import MANIFEST, check_files, load_manifest

R = TypeVar("R", bound=Record)

FILES = ("records/*.json", "records/*.parquet", "failures/*.json", "tuning/*.json")
"""Patterns of the files that are packed."""


@dataclass(frozen=True)
class StudyFolder:
    """Paths of a study's files, and methods that read them.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def description(self) -> Path:
        """File of the `StudyRecord`."""
        return self.path / "study.json"

    @property
    def packed(self) -> Path:
        """File of the table of a packed study."""
        return self.path / "records.parquet"

    @property
    def storage(self) -> Path:
        """File of the trials, unless another storage is named."""
        return self.path / "tuning" / "trials.db"

    def record(self, run: str) -> Path:
        """Return the file of a run's `RunRecord`, which exists once the run is finished."""
        return self.path / "records" / f"{run}.json"

    def examples_file(self, run: str) -> Path:
        """Return the parquet file of a run's `Examples`, which is written before its record."""
        return self.path / "records" / f"{run}.parquet"

    def failure(self, run: str) -> Path:
        """Return the file of a run's `FailureRecord`."""
        return self.path / "failures" / f"{run}.json"

    def tuning(self, task: str, label: str) -> Path:
        """Return the file of the `TuningRecord` of a method on a task."""
        return self.path / "tuning" / f"{to_file_name(task)}--{to_file_name(label)}.json"

    def run(self, run: str) -> Path:
        """Return the folder of a run: adapter, checkpoints, log."""
        return self.path / "runs" / run

    @cached_property
    def study(self) -> StudyRecord:
        """The record of the study, from `study.json`.

        Raises:
            MethodError: The folder holds no study.
        """
        try:
            return StudyRecord.load(self.description)
        except OSError as error:
            raise MethodError(
                f"{self.path} holds no study: there is no {self.description.name} in it; expected "
                "a folder that `rankwright compare` wrote"
            ) from error

    def holds(self, file: Path) -> bool:
        """Return whether a file of the study exists, unpacked or packed."""
        return file.exists() or self._relative_name(file) in self._packed_contents

    def records(self) -> list[RunRecord]:
        """Return the records of the finished runs, in the order of the plan."""
        return self._load(RunRecord, [self.record(run.name) for run in self.study.runs])

    def check(self) -> None:
        """Compare the files of every finished run with their digests, which older studies lack.

        Raises:
            MethodError: A file of a run, or its record, is missing or differs.
        """
        for run in self.study.runs:
            folder = self.run(run.name)
            if self.record(run.name).exists() and (folder / MANIFEST).exists():
                check_run(folder)
                with explain_edits():
                    check_files(self.path, load_manifest(folder).get("records", {}))

    def failures(self) -> list[FailureRecord]:
        """Return the runs that ended with an error and have not been finished since."""
        names = (run.name for run in self.study.runs if not self.holds(self.record(run.name)))
        return self._load(FailureRecord, [self.failure(name) for name in names])

    def tunings(self) -> list[TuningRecord]:
        """Return the records of the finished searches, by task and then method."""
        pairs = [(t.task, m.label) for t in self.study.tasks for m in self.study.methods]
        return self._load(TuningRecord, [self.tuning(*pair) for pair in pairs])

    def examples(self, record: RunRecord) -> Examples:
        """Return the outcome of a finished run on every reported row."""
        file = self.examples_file(record.name)
        if not file.exists() and (packed := self._packed_contents.get(self._relative_name(file))):
            return Examples.load(io.BytesIO(packed))
        return Examples.load(file)

    def pack(self, output: Path) -> Path:
        """Write a packed copy of the study; this folder is not changed.

        Args:
            output: Folder for `study.json` and the table.

        Returns:
            The table.

        Raises:
            MethodError: This folder holds no study, or `output` has unpacked files of one.
        """
        _ = self.study  # raises where there is none
        target = StudyFolder(output)
        if there := target._unpacked_files():
            raise MethodError(
                f"{there[0]} exists, and would be read instead of the packed file; expected a "
                "folder without files of a study. Choose another --output"
            )
        files = {self._relative_name(file): file.read_bytes() for file in self._unpacked_files()}
        write_packed(target.packed, self._packed_contents | files)
        write_bytes(target.description, self.description.read_bytes())
        return target.packed

    def unpack(self) -> int:
        """Turn the table of a packed study into files; existing files are kept.

        Returns:
            Number of files written; 0 for a study that is not packed.
        """
        files = {self.path / name: content for name, content in self._packed_contents.items()}
        missing = {file: content for file, content in files.items() if not file.exists()}
        for file, content in missing.items():
            write_bytes(file, content)
        self.packed.unlink(missing_ok=True)  # last: interrupted earlier, nothing is lost
        self.__dict__.pop("_packed_contents", None)
        return len(missing)

    @cached_property
    def _packed_contents(self) -> dict[str, bytes]:
        """Contents of the table of a packed study, by path below the folder."""
        return read_packed(self.packed) if self.packed.exists() else {}

    def _unpacked_files(self) -> list[Path]:
        """Return the unpacked files that `pack` would write."""
        return [file for pattern in FILES for file in sorted(self.path.glob(pattern))]

    def _relative_name(self, file: Path) -> str:
        return file.relative_to(self.path).as_posix()

    def _load(self, kind: type[R], files: list[Path]) -> list[R]:
        """Load the files that exist, unpacked or packed."""
        return [self._load_one(kind, file) for file in files if self.holds(file)]

    def _load_one(self, kind: type[R], file: Path) -> R:
        if file.exists():
            return kind.load(file)
        name = self._relative_name(file)
        return kind.parse(
            self._packed_contents[name], f"{name} in {self.packed}", "Copy the study again"
        )
