"""Prepare the folder of one process: the description of its run, and the request of the study."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from rankwright.errors import MethodError
from rankwright.job import RunFolder, TrainConfig
from rankwright.study.execution.protocol import REQUEST, Purpose, Request
from rankwright.study.planning.plan import Plan
from rankwright.study.planning.specs import MethodSpec

LOGGED_POINTS = 50
"""Times that the training loss is logged in a run, about."""


def prepare(
    plan: Plan, path: Path, purpose: Purpose, task: str, spec: MethodSpec, seed: int, steps: int
) -> None:
    """Describe one run in a folder of its own, for a process to carry out.

    Args:
        plan: The plan.
        path: The folder; one with the same run is continued.
        purpose: The purpose of the run.
        task: Label of the task.
        spec: The method.
        seed: The seed.
        steps: Optimizer steps.

    Raises:
        MethodError: The folder holds another run.
    """
    config = _train_config(plan, path, purpose, task, spec, seed, steps)
    folder = RunFolder(path, config, spec.method)
    if folder.description.exists():
        _check_same_run(RunFolder.read(path, check=False), folder)
    else:
        folder.write_description()
    Request(
        purpose=purpose,
        study=str(plan.folder.path),
        task=task,
        label=spec.label,
        reported_split=plan.record.task(task).reported_split,
        data_sha256=_expected_data(plan, purpose, task),
        held_text=plan.config.held_text,
        keep_adapter=plan.config.keep_adapters,
    ).save(path / REQUEST)


def _expected_data(plan: Plan, purpose: Purpose, task: str) -> dict[str, str]:
    """Return the digests of the rows that the process has to find."""
    if purpose == "trial" and task in plan.trial_data:
        return plan.trial_data[task].sha256
    return plan.record.task(task).data_sha256


def _train_config(
    plan: Plan, path: Path, purpose: Purpose, task: str, spec: MethodSpec, seed: int, steps: int
) -> TrainConfig:
    study = plan.config
    config = study.train_config(
        study.task_spec(task), spec, output=str(path), seed=seed, steps=steps
    )
    trainer = dict(config.trainer)
    if (
        purpose == "run"
    ):  # evaluations at steps that are logged as well, for the points of the curve
        logged = max(1, steps // LOGGED_POINTS)
        every = max(1, round(steps / study.curve_points / logged)) * logged
        trainer = {"eval_strategy": "steps", "eval_steps": every, **trainer}
    elif purpose == "measure":
        trainer = {**trainer, "save_strategy": "no"}
    config = dataclasses.replace(config, trainer=trainer)
    return _divide_training_rows(plan, config, task) if purpose == "trial" else config


def _divide_training_rows(plan: Plan, config: TrainConfig, task: str) -> TrainConfig:
    """Score a trial on a share of the training rows if the validation rows are reported.

    It trains on at most as many rows as are left.
    """
    if task not in plan.trial_data:
        return config
    left = plan.trial_data[task].rows["train"]
    rows = config.train_rows and min(config.train_rows, left)
    return dataclasses.replace(config, tuning_share=plan.config.tuning_share, train_rows=rows)


def _check_same_run(present: RunFolder, planned: RunFolder) -> None:
    old, new = present.options(), planned.options()
    for name in sorted(old.keys() | new.keys()):
        if name != "output" and old.get(name) != new.get(name):
            raise MethodError(
                f"{present.description} has {name} = {old.get(name)!r}, the plan "
                f"{new.get(name)!r}; delete the folder of that run, or choose another output "
                "folder for the study"
            )
