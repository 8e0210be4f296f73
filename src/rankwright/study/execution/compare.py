"""The walk through a study: plan, resume, measure, then tune and run task by task.

Every stage skips the work that an earlier command has finished.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rankwright.study.errors import StoppedError
from rankwright.study.execution.measuring import measure, pairs_in_seconds
from rankwright.study.execution.observer import Observer, announce_notices
from rankwright.study.execution.processes import Processes
from rankwright.study.execution.runs import carry_out_runs
from rankwright.study.execution.trials import tune_methods
from rankwright.study.planning.config import StudyConfig
from rankwright.study.planning.plan import Plan, make_plan
from rankwright.study.planning.same_study import resume
from rankwright.study.planning.sizing import schedule_runs
from rankwright.study.records.folder import StudyFolder
from rankwright.study.records.locks import lock_folder

RETRY_SECONDS = 1.0
"""Pause before a folder that another command holds is tried again."""


def compare(
    config: StudyConfig, command: str, processes: Processes, observer: Observer
) -> StudyFolder:
    """Carry out everything that a study lacks.

    Args:
        config: The configuration of the study.
        command: The command line that repeats it, without a password; it is recorded.
        processes: Carries the runs out.
        observer: Is told about the progress.

    Returns:
        The folder, in which every planned run is finished or among `failures()`.

    Raises:
        StoppedError: `processes.stop` was called.
        TrainingError: The measured steps failed.
        MethodError: The configuration cannot be carried out, or the folder holds another study.
        TaskError: The data does not match a task's declaration.
    """
    plan = make_plan(config, command)
    announce_notices(plan, observer)
    with _hold(plan.folder, processes):  # two commands that measure would differ in their steps
        plan = resume(plan)
        plan = measure(plan, pairs_in_seconds(plan), processes, observer)
        plan = schedule_runs(plan)
        plan.record.save(plan.folder.description)
        if unpacked := plan.folder.unpack():
            name = plan.folder.packed.name
            observer.notify(f"{unpacked} files of {name} unpacked, to continue the study")
    observer.planned(plan)
    for task in plan.record.tasks:  # tuned and run one by one, so that first results come early
        if config.tune:
            plan = schedule_runs(tune_methods(plan, task.task, processes, observer))
            plan.record.save(plan.folder.description)
            observer.planned(plan)
        carry_out_runs(plan, task.task, processes, observer)
    return StudyFolder(plan.folder.path)


def dry_run(config: StudyConfig, command: str, processes: Processes, observer: Observer) -> Plan:
    """Return the plan with a measurement of every method; nothing is kept.

    Args:
        config: The configuration of the study.
        command: The command line that repeats it.
        processes: Carries the measured steps out.
        observer: Is told about the progress.

    Raises:
        StoppedError: `processes.stop` was called.
        TrainingError: The measured steps failed.
        MethodError: The configuration cannot be carried out.
        TaskError: The data does not match a task's declaration.
    """
    plan = make_plan(config, command)
    announce_notices(plan, observer)
    return schedule_runs(measure(plan, plan.specs, processes, observer))


@contextlib.contextmanager
def _hold(folder: StudyFolder, processes: Processes) -> Iterator[None]:
    """Lock the study's folder against other commands that carry the same study out.

    Raises:
        StoppedError: The study was asked to stop while another command held the folder.
    """
    while True:
        with lock_folder(folder.path, wait=False) as ours:
            if ours:
                yield
                return
        if processes.stopping:
            raise StoppedError
        time.sleep(RETRY_SECONDS)
