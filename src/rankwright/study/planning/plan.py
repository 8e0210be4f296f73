"""The plan of a study: plain data, from which its stages measure, tune and run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from rankwright.core.describe import describe_method, registered_name
from rankwright.job.paths import expanded
from rankwright.job.result import versions
from rankwright.job.tokenizers import load_tokenizer
from rankwright.study.planning.config import StudyConfig
from rankwright.study.planning.held_text import HeldText
from rankwright.study.planning.specs import MethodSpec
from rankwright.study.planning.task_data import read_task, read_trial_data
from rankwright.study.records.data import DataFingerprint
from rankwright.study.records.device import device_name
from rankwright.study.records.folder import StudyFolder
from rankwright.study.records.records import MethodRecord, StudyRecord

Pair = tuple[str, str]
"""(label of a task, label of a method)."""


@dataclass(frozen=True)
class Plan:
    """A study that is ready to be carried out.

    Every stage takes a plan and returns one that knows more: measured times, tuned methods, runs.

    Attributes:
        config: The user's configuration.
        folder: The study's folder.
        record: The content of `study.json`.
        specs: The methods as they are run on each task; tuned once their trials are over.
        trial_data: Task -> the rows of its trials, for tasks whose trials divide the training rows.
        untunable: Why all trials of a method on a task failed, after which its runs fail as well.
    """

    config: StudyConfig
    folder: StudyFolder
    record: StudyRecord
    specs: Mapping[Pair, MethodSpec]
    trial_data: Mapping[str, DataFingerprint] = field(default_factory=dict)
    untunable: Mapping[Pair, str] = field(default_factory=dict)


def make_plan(config: StudyConfig, command: str) -> Plan:
    """Read the data of all tasks, and return the plan before measurement and tuning.

    Args:
        config: The user's configuration.
        command: The command line that repeats the study.

    Raises:
        MethodError: An option is wrong.
        TaskError: The data does not match a task's declaration.
    """
    tokenizer = load_tokenizer(config.model)
    tasks, methods = config.parsed_tasks, config.parsed_methods
    name = "-".join(task.label for task in tasks).replace("/", "-")
    folder = StudyFolder(expanded(config.output or f"studies/{name}"))
    record = StudyRecord(
        name=folder.path.resolve().name,
        command=command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        model=config.model,
        tasks=tuple(read_task(config, task, tokenizer) for task in tasks),
        methods=tuple(_record_method(spec, tuned=config.tune > 0) for spec in methods),
        baseline=config.baseline or methods[0].label,
        seeds=config.parsed_seeds,
        budget=str(config.parsed_budget),
        trials=config.tune,
        runs=(),
        versions=versions(),
        device=device_name(),
        tuning_seed=max(config.parsed_seeds) + 1 if config.tune else None,
        held_text=None if config.held_text is None else HeldText.read(config.held_text).sha256,
        curve_points=config.curve_points,
        file=config.file,
    )
    divided = {task.task for task in record.tasks if task.reported_split == "validation"}
    return Plan(
        config,
        folder,
        record,
        {(task.label, method.label): method for task in tasks for method in methods},
        {
            task.label: read_trial_data(config, task, tokenizer)
            for task in tasks
            if config.tune and task.label in divided
        },
    )


def _record_method(spec: MethodSpec, *, tuned: bool) -> MethodRecord:
    method = spec.method
    return MethodRecord(
        label=spec.label,
        method=registered_name(type(method)),
        summary=method.summary,
        reference=method.reference,
        hyperparameters=describe_method(method),
        options=spec.options,
        against=spec.against,
        space={n: str(c) for n, c in spec.space.items()} if tuned else None,
    )
