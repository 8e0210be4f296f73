"""The rows of a run, tokenised, with the digests that identify them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from rankwright.job.config import TrainConfig
from rankwright.job.rows import RunRows
from rankwright.tasks import PreparedTask
from rankwright.tasks.rows import digest


@dataclass(frozen=True)
class RunData:
    """The data of a run.

    Attributes:
        prepared: Tokenised rows to train on and to evaluate on.
        held_out: Tokenised rows of `held_out_data`; None without such data.
        splits: Number and digest of the rows of every split by its name, `held_out` among them:
            `{"train": {"rows": 8, "sha256": "..."}}`.
        notices: Notices for the user about the rows.
    """

    prepared: PreparedTask
    held_out: Dataset | None
    splits: Mapping[str, Mapping[str, Any]]
    notices: tuple[str, ...]


def read_data(
    config: TrainConfig, tokenizer: PreTrainedTokenizerBase, rows: RunRows | None = None
) -> RunData:
    """Read, check and tokenise every row that a run needs.

    Args:
        config: The run.
        tokenizer: The tokenizer of its model.
        rows: The rows, if they have been read; None to read them.

    Raises:
        TaskError: The data is not what the task declares.
    """
    if rows is None or rows.task != config.make_task():
        rows = RunRows.read(config)
    task = rows.task
    prepared = task.prepare(tokenizer, rows.splits)
    held_out = None if rows.held_out is None else task.prepare(tokenizer, rows.held_out)
    every = rows.splits.by_name | {
        "held_out": None if rows.held_out is None else rows.held_out.test
    }
    splits = {
        name: {"rows": len(split), "sha256": digest(split, task.columns)}
        for name, split in every.items()
        if split is not None
    }
    limited = [
        prepared.limit_notice(split, config.eval_rows)
        for split in ("validation", "test")
        if prepared.rows.test is not None or split == "validation"
    ]
    held_notices = () if rows.held_out is None else rows.held_out.notices
    notices = (
        *task.summary(rows.splits),
        *dict.fromkeys((*prepared.warnings, *held_notices)),  # both read the training rows
        *filter(None, limited),
    )
    return RunData(prepared, held_out and held_out.test, splits, notices)
