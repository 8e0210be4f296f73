"""Read the data of a task, to record its rows before any run starts."""

from __future__ import annotations

from typing import Literal

from transformers import PreTrainedTokenizerBase

from rankwright.job.data import read_data
from rankwright.study.planning.config import StudyConfig
from rankwright.study.planning.specs import TaskSpec
from rankwright.study.records.data import DataFingerprint
from rankwright.study.records.records import TaskRecord
from rankwright.tasks import TaskError


def read_task(
    config: StudyConfig, spec: TaskSpec, tokenizer: PreTrainedTokenizerBase
) -> TaskRecord:
    """Read the data of a task as its runs will, and return its record.

    Raises:
        MethodError: An option of the task is wrong.
        TaskError: The data does not match the task's declaration.
    """
    found = read_data(config.train_config(spec, config.parsed_methods[0]), tokenizer)
    task, data = found.prepared.task, DataFingerprint.of(found)
    reported: Literal["validation", "test"] = "test" if "test" in data.rows else "validation"
    scored = f"{config.tuning_share:g} of train" if reported == "validation" else "validation"
    return TaskRecord(
        task=spec.label,
        kind=task.kind,
        metric=task.primary_metric,
        greater_is_better=task.greater_is_better,
        reported_split=reported,
        tuning_rows=scored if config.tune else None,
        rows=data.rows,
        data_sha256=data.sha256,
        options={**config.options, **spec.options},
        budget=None if spec.budget is None else str(spec.budget),
        notices=found.notices,
    )


def read_trial_data(
    config: StudyConfig, spec: TaskSpec, tokenizer: PreTrainedTokenizerBase
) -> DataFingerprint:
    """Read the data of trials that divide the training rows, since validation rows are reported.

    Raises:
        TaskError: The divided rows do not make up a task.
    """
    share = config.tuning_share
    method = config.parsed_methods[0]
    trial = config.train_config(spec, method, tuning_share=share, train_rows=None)
    try:
        return DataFingerprint.of(read_data(trial, tokenizer))
    except TaskError as error:
        raise TaskError(
            f"tuning_share = {share:g}: trials on {spec.label}, of this share of its training rows "
            f"and the others, cannot be prepared: {error}"
        ) from error
