"""Checks that a command continues the study that its folder holds."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from rankwright.errors import MethodError
from rankwright.study.records.records import (
    StudyRecord,
)


def check_continues(old: StudyRecord, new: StudyRecord) -> None:
    """Refuse to go on with a study that is another one; seeds, methods and tasks may be added.

    Raises:
        MethodError: Something that results depend on has changed.
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


def continued(old: StudyRecord, new: StudyRecord) -> StudyRecord:
    """The new one with what the study that is there has settled.

    Raises:
        MethodError: It cannot go on so.
    """
    check_continues(old, new)
    tuning_seed = old.tuning_seed
    if old.trials and tuning_seed is None:  # of a version that did not note it
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


def check_same_method(what: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuse to go on where two `MethodRecord`s differ in what runs and trials depend on.

    Raises:
        MethodError: They do.
    """
    free = {"against", "summary", "reference"}
    if old.get("space") is None:  # of a study that did not note it
        free.add("space")
    check_same(what, *({n: v for n, v in each.items() if n not in free} for each in (old, new)))


def check_same(what: str, old: Any, new: Any) -> None:
    """Refuse to go on where two values differ as JSON; of mappings, the first that does is named.

    Raises:
        MethodError: They differ.
    """
    old, new = (json.loads(json.dumps(value)) for value in (old, new))
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):  # None for a field that is newer than a study
            check_same(f"{what}: {key}", old.get(key), new.get(key))
    elif old != new:
        raise MethodError(
            f"the study that is there has {what} = {old!r}, this command {new!r}; go on with the "
            "same, or choose another output folder"
        )
