"""The rows of a run, read and checked without a tokenizer or torch."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rankwright.core.fields import check_field
from rankwright.job.config import TrainConfig
from rankwright.tasks import Known, Splits, Task, WithTest
from rankwright.tasks.csv_files import parse_delimiter
from rankwright.tasks.files import data_paths


@dataclass(frozen=True)
class RunRows:
    """The rows of a run, and the task that they belong to.

    Attributes:
        task: The task of the run.
        splits: Its rows.
        held_out: The same, with the rows of `held_out_data` as test rows; None without such data.
    """

    task: Task
    splits: Splits
    held_out: Splits | None = None

    @classmethod
    def read(cls, config: TrainConfig) -> RunRows:
        """Read and check every row that a run needs.

        Raises:
            FieldError: `train_rows` asks for more training rows than there are.
            TaskError: The data is not what the task declares.
        """
        task = config.make_task()
        splits = task.load()
        wanted, found = config.train_rows, len(splits.train)
        expected = f"at most {found}, the training rows of {task.name}"
        check_field(config, "train_rows", wanted is None or wanted <= found, expected)
        if config.held_out_data is None:
            return cls(task, splits)
        # The task has to know both: held-out rows get the label indices of the training rows.
        source = WithTest(
            source=Known(source=task.source, splits=splits),
            path=data_paths(config.held_out_data),
            delimiter=config.delimiter and parse_delimiter(config.delimiter),
        )
        return cls(task, splits, replace(task, source=source).load())
