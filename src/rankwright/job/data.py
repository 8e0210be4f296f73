"""The rows of a run, read and tokenised, and by what it knows them again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from rankwright.job.config import TrainConfig
from rankwright.tasks import PreparedTask, Task, WithTest
from rankwright.tasks.rows import digest


@dataclass(frozen=True)
class RunData:
    """What a run reads.

    Attributes:
        prepared: What it trains on and is scored on.
        held_out: Tokenised rows of the user's own second split; None without one.
        splits: Number and digest of the rows of every split by its name, `held_out` among them:
            `{"train": {"rows": 8, "sha256": "..."}}`.
        notices: What the user should know about the rows.
    """

    prepared: PreparedTask
    held_out: Dataset | None
    splits: Mapping[str, Mapping[str, Any]]
    notices: tuple[str, ...]


def read_data(config: TrainConfig, tokenizer: PreTrainedTokenizerBase) -> RunData:
    """Read, check and tokenise every row that a run needs.

    Args:
        config: The run.
        tokenizer: The tokenizer of its model.

    Raises:
        TaskError: The data is not what the task declares.
    """
    task = config.make_task()
    prepared = task.prepare(tokenizer)
    held_out = None
    if config.held_out_data is not None:
        held_out = _with_test(task, config.held_out_data).prepare(tokenizer)
    rows = prepared.rows.by_name | {"held_out": None if held_out is None else held_out.rows.test}
    splits = {
        name: {"rows": len(split), "sha256": digest(split, task.columns)}
        for name, split in rows.items()
        if split is not None
    }
    limited = [
        prepared.limit_notice(split, config.eval_rows)
        for split in ("validation", "test")
        if prepared.rows.test is not None or split == "validation"
    ]
    notices = (*prepared.warnings, *filter(None, limited))
    return RunData(prepared, held_out and held_out.test, splits, notices)


def _with_test(task: Task, path: str) -> Task:
    """The task with the rows of a file, labelled as its training rows are, as its test split."""
    return replace(task, source=WithTest(source=task.source, path=Path(path).expanduser()))
