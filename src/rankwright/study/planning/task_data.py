"""Read the data of a task, and note its rows and digests."""

from __future__ import annotations

from typing import Literal

from transformers import PreTrainedTokenizerBase

from rankwright.job.data import read_data
from rankwright.study.planning.config import StudyConfig, TaskSpec
from rankwright.study.records.data import Data
from rankwright.study.records.records import (
    TaskRecord,
)
from rankwright.tasks import TaskError


def _task_record(
    config: StudyConfig, spec: TaskSpec, tokenizer: PreTrainedTokenizerBase
) -> TaskRecord:
    run = config.train_config(spec, config.parsed_methods[0])
    found = read_data(run, tokenizer)
    task, data = found.prepared.task, Data.of(found)
    reported: Literal["validation", "test"] = "test" if "test" in data.rows else "validation"
    aside = f"{config.tuning_share:g} of train" if reported == "validation" else "validation"
    return TaskRecord(
        task=spec.label,
        kind=task.kind,
        metric=task.primary_metric,
        greater_is_better=task.greater_is_better,
        reported_split=reported,
        tuning_rows=aside if config.tune else None,
        rows=data.rows,
        data_sha256=data.sha256,
        options={**config.options, **spec.options},
        budget=None if spec.budget is None else str(spec.budget),
        notices=found.notices,
    )


def _set_aside(config: StudyConfig, spec: TaskSpec, tokenizer: PreTrainedTokenizerBase) -> Data:
    """The rows of trials that leave the validation rows alone.

    Raises:
        TaskError: There is no task in them.
    """
    share = config.tuning_share
    method = config.parsed_methods[0]
    trial = config.train_config(spec, method, tuning_share=share, train_rows=None)
    try:
        return Data.of(read_data(trial, tokenizer))
    except TaskError as error:
        raise TaskError(
            f"tuning_share = {share:g}: trials on {spec.label}, of this share of its training rows "
            f"and the others, cannot be prepared: {error}"
        ) from error
