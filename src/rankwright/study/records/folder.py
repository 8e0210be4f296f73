"""The folder of a study.

```
DIR/
  study.json                    what is compared, on what, at what cost: one StudyRecord
  records/<run>.json            one RunRecord for every finished run
  records/<run>.parquet         the Examples of that run: its outcome row by row
  failures/<run>.json           one FailureRecord for every run that ended with an error
  tuning/<task>--<label>.json   one TuningRecord for every method tuned on a task
  tuning/trials.db              the trials, where they are stored in a file
  runs/<run>/                   what `rankwright train` leaves, and the log of the process
```

Instead of the folders `records`, `failures` and `tuning`, a packed study has one file:

```
  records.parquet               all of their files; see rankwright.study.records.packed
```

`StudyFolder` reads both forms; of a file that is in both, it reads the one in its folder. `pack`
writes the second form, and continuing a study turns it back into the first.

A run's name is `<task>--<label>--<seed>`. `label` is what a study calls one of its methods: the
name of the method, or another where the method stands there more than once with different
hyperparameters. Every file is written whole or not at all.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from rankwright.errors import MethodError
from rankwright.job.files import write_bytes
from rankwright.job.folder import check_run, telling_edits
from rankwright.study.records.examples import Examples
from rankwright.study.records.json_record import Record
from rankwright.study.records.names import in_file_names
from rankwright.study.records.packed import read_packed, write_packed
from rankwright.study.records.records import FailureRecord, RunRecord, StudyRecord
from rankwright.study.records.tuning import TuningRecord
from rankwright.training.manifest import MANIFEST, check_files, load_manifest

R = TypeVar("R", bound=Record)

FILES = ("records/*.json", "records/*.parquet", "failures/*.json", "tuning/*.json")
"""Patterns of the files that are packed."""


@dataclass(frozen=True)
class StudyFolder:
    """Where a study keeps its files, and how to read them.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def description(self) -> Path:
        """The `StudyRecord`."""
        return self.path / "study.json"

    @property
    def packed(self) -> Path:
        """The table of a packed study."""
        return self.path / "records.parquet"

    @property
    def storage(self) -> Path:
        """The file of the trials, where no other storage is named."""
        return self.path / "tuning" / "trials.db"

    def record(self, run: str) -> Path:
        """The `RunRecord` of a run, by the run's name; there is one once the run is finished."""
        return self.path / "records" / f"{run}.json"

    def examples_file(self, run: str) -> Path:
        """The parquet of a run's outcomes; it is written before the record is."""
        return self.path / "records" / f"{run}.parquet"

    def failure(self, run: str) -> Path:
        """The `FailureRecord` of a run."""
        return self.path / "failures" / f"{run}.json"

    def tuning(self, task: str, label: str) -> Path:
        """The `TuningRecord` of a method on a task."""
        return self.path / "tuning" / f"{in_file_names(task)}--{in_file_names(label)}.json"

    def run(self, run: str) -> Path:
        """The folder of a run: adapter, checkpoints, log."""
        return self.path / "runs" / run

    @cached_property
    def study(self) -> StudyRecord:
        """What the study is.

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
        """Whether a file of the study is there, in its folder or packed."""
        return file.exists() or self._name(file) in self._contents

    def records(self) -> list[RunRecord]:
        """The finished runs, in the order of the plan."""
        return self._load(RunRecord, [self.record(run.name) for run in self.study.runs])

    def check(self) -> None:
        """Compare the files of every finished run with their digests; older studies have none.

        Raises:
            MethodError: A file of a run, or its record, is missing or differs.
        """
        for run in self.study.runs:
            folder = self.run(run.name)
            if self.record(run.name).exists() and (folder / MANIFEST).exists():
                check_run(folder)
                with telling_edits():
                    check_files(self.path, load_manifest(folder).get("records", {}))

    def failures(self) -> list[FailureRecord]:
        """The runs that ended with an error and have not been finished since."""
        names = (run.name for run in self.study.runs if not self.holds(self.record(run.name)))
        return self._load(FailureRecord, [self.failure(name) for name in names])

    def tunings(self) -> list[TuningRecord]:
        """The finished searches, by task and then method."""
        pairs = [(t.task, m.label) for t in self.study.tasks for m in self.study.methods]
        return self._load(TuningRecord, [self.tuning(*pair) for pair in pairs])

    def examples(self, record: RunRecord) -> Examples:
        """The outcomes of a finished run, row by row."""
        file = self.examples_file(record.name)
        if not file.exists() and (packed := self._contents.get(self._name(file))):
            return Examples.load(io.BytesIO(packed))
        return Examples.load(file)

    def pack(self, output: Path) -> Path:
        """Write the study with its records in one table; this folder stays as it is.

        Args:
            output: Folder for `study.json` and the table.

        Returns:
            The table.

        Raises:
            MethodError: This folder holds no study, or `output` has files of one.
        """
        _ = self.study  # raises where there is none
        target = StudyFolder(output)
        if there := target._loose():
            raise MethodError(
                f"{there[0]} is there, and would hide what is packed; expected a folder without "
                "files of a study. Choose another --output"
            )
        files = {self._name(file): file.read_bytes() for file in self._loose()}
        write_packed(target.packed, self._contents | files)
        write_bytes(target.description, self.description.read_bytes())
        return target.packed

    def unpack(self) -> int:
        """Turn the table of a packed study into files; existing files stay as they are.

        Returns:
            How many files were written; 0 for a study that is not packed.
        """
        missing = {self.path / name: content for name, content in self._contents.items()}
        missing = {file: content for file, content in missing.items() if not file.exists()}
        for file, content in missing.items():
            write_bytes(file, content)
        self.packed.unlink(missing_ok=True)  # last: if stopped before, nothing is lost
        self.__dict__.pop("_contents", None)
        return len(missing)

    @cached_property
    def _contents(self) -> dict[str, bytes]:
        """The files in the table of a packed study, by path below the folder."""
        return read_packed(self.packed) if self.packed.exists() else {}

    def _loose(self) -> list[Path]:
        """The files that can be packed."""
        return [file for pattern in FILES for file in sorted(self.path.glob(pattern))]

    def _name(self, file: Path) -> str:
        return file.relative_to(self.path).as_posix()

    def _load(self, kind: type[R], files: list[Path]) -> list[R]:
        """Load the records among these files that exist."""
        return [self._load_one(kind, file) for file in files if self.holds(file)]

    def _load_one(self, kind: type[R], file: Path) -> R:
        if file.exists():
            return kind.load(file)
        name = self._name(file)
        return kind.parse(self._contents[name], f"{name} in {self.packed}", "Copy the study again")
