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

A run's name is `<task>--<label>--<seed>`. `label` is what a study calls one of its methods: the
name of the method, or another where the method stands there more than once with different
hyperparameters. Every file is written whole or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rankwright.core.errors import MethodError
from rankwright.job.folder import check_run, telling_edits
from rankwright.study.examples import Examples
from rankwright.study.names import in_file_names
from rankwright.study.records import FailureRecord, RunRecord, StudyRecord, TuningRecord
from rankwright.training.manifest import MANIFEST, check_files, load_manifest


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

    def records(self) -> list[RunRecord]:
        """The finished runs, in the order of the plan."""
        files = (self.record(run.name) for run in self.study.runs)
        return [RunRecord.load(file) for file in files if file.exists()]

    def check(self) -> None:
        """Compare what every finished run wrote with its digests; older studies have none.

        Raises:
            MethodError: A file of a run or its record is missing, or is not what was written.
        """
        for run in self.study.runs:
            folder = self.run(run.name)
            if self.record(run.name).exists() and (folder / MANIFEST).exists():
                check_run(folder)
                with telling_edits():
                    check_files(self.path, load_manifest(folder).get("records", {}))

    def failures(self) -> list[FailureRecord]:
        """The runs that ended with an error and have not been finished since."""
        unfinished = (r.name for r in self.study.runs if not self.record(r.name).exists())
        files = map(self.failure, unfinished)
        return [FailureRecord.load(file) for file in files if file.exists()]

    def tunings(self) -> list[TuningRecord]:
        """The finished searches, by task and then method."""
        pairs = [(t.task, m.label) for t in self.study.tasks for m in self.study.methods]
        files = (self.tuning(*pair) for pair in pairs)
        return [TuningRecord.load(file) for file in files if file.exists()]

    def examples(self, record: RunRecord) -> Examples:
        """The outcomes of a finished run, row by row."""
        return Examples.load(self.examples_file(record.name))
