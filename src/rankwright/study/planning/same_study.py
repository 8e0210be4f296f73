"""Continue a study: take over what its folder has settled, and refuse a different study."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from rankwright.errors import MethodError
from rankwright.study.planning.plan import Plan
from rankwright.study.records.records import StudyRecord


def resume(plan: Plan) -> Plan:
    """Return the plan with what an earlier command has settled, if the folder holds the study.

    Raises:
        MethodError: The folder holds another study, or a seed is that of the trials.
    """
    if not plan.folder.description.exists():
        return plan
    present = StudyRecord.load(plan.folder.description)
    return dataclasses.replace(plan, record=continue_record(present, plan.record))


def continue_record(old: StudyRecord, new: StudyRecord) -> StudyRecord:
    """Return the new record with the creation time, measurements and tuning seed of the old one.

    Raises:
        MethodError: The records are of different studies, or a seed is that of the trials.
    """
    check_continues(old, new)
    tuning_seed = old.tuning_seed
    if old.trials and tuning_seed is None:  # written by a version that did not record it
        tuning_seed = max(old.seeds) + 1
    if tuning_seed in new.seeds:
        free = (seed for seed in itertools.count() if seed != tuning_seed)
        others = ",".join(str(seed) for seed in itertools.islice(free, len(new.seeds)))
        raise MethodError(
            f"seeds: {tuning_seed} is the seed of the trials, which no reported run may have; "
            f"expected others, such as {others}"
        )
    return dataclasses.replace(
        new, created=old.created, measurements=old.measurements, tuning_seed=tuning_seed
    )


def check_continues(old: StudyRecord, new: StudyRecord) -> None:
    """Refuse to continue another study; seeds, methods and tasks may be added.

    Raises:
        MethodError: A value that results depend on has changed.
    """
    for name in ("model", "budget", "trials", "held_text"):
        check_same(name, getattr(old, name), getattr(new, name))
    if old.curve_points is not None:
        check_same("curve_points", old.curve_points, new.curve_points)
    for task in new.tasks:
        for before in (t for t in old.tasks if t.task == task.task):
            check_same(
                f"task {task.task}", *(asdict(replace(each, notices=())) for each in (before, task))
            )
    for method in new.methods:
        for present in (m for m in old.methods if m.label == method.label):
            check_same_method(f"method {method.label}", asdict(present), asdict(method))


def check_same_method(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuse to continue if two `MethodRecord`s differ in what runs and trials depend on.

    Args:
        name: Name of the method, for the error message.
        old: The fields of the recorded method.
        new: The fields of the present method.

    Raises:
        MethodError: The records differ.
    """
    ignored = {"against", "summary", "reference"}
    if old.get("space") is None:  # of a study that did not record it
        ignored.add("space")
    check_same(name, *({n: v for n, v in each.items() if n not in ignored} for each in (old, new)))


def check_same(name: str, old: Any, new: Any) -> None:
    """Refuse to continue if two values differ as JSON; in mappings, name the first key that does.

    Args:
        name: Name of the value, for the error message.
        old: The recorded value.
        new: The present value.

    Raises:
        MethodError: The values differ.
    """
    old, new = (json.loads(json.dumps(value)) for value in (old, new))
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):  # None for a field newer than the study
            check_same(f"{name}: {key}", old.get(key), new.get(key))
    elif old != new:
        raise MethodError(
            f"the existing study has {name} = {old!r}, this command {new!r}; continue with the "
            "same value, or choose another output folder"
        )
