"""The methods and tasks of a study, from a name or a YAML mapping each."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rankwright.core.method import Method
from rankwright.core.method_registry import get_method
from rankwright.core.part_registry import SLOTS
from rankwright.core.search_space import LogRange, OneOf, SearchSpace
from rankwright.errors import MethodError
from rankwright.job import build_method
from rankwright.study.planning.budget import Budget
from rankwright.study.planning.values import check_types, first_file, to_mapping
from rankwright.tasks import task_name

DECIDED_BY_STUDY = ("task", "output", "seed", "epochs", "steps", "tuning_share")
"""Options of a run that the study decides."""
LEARNING_RATES = ("learning_rate", "head_learning_rate")
"""Options of a run that start at the middle of the method's search space."""
METHOD_OPTIONS = (*LEARNING_RATES, "weight_decay", "schedule", "warmup", "max_grad_norm")
"""Options of a run that may differ between methods; the data and its order may not."""


@dataclass(frozen=True)
class MethodSpec:
    """One method of a study.

    Attributes:
        label: Its label in the study.
        method: The method with its hyperparameters.
        options: Options of its runs.
        space: Its search space, without the values that the user has set.
        against: Label of the method that it is compared with; None for the baseline.
    """

    label: str
    method: Method
    options: dict[str, Any]
    space: SearchSpace
    against: str | None = None

    @classmethod
    def parse(cls, given: Any) -> MethodSpec:
        """Build a method from a name, or from a mapping as described in `StudyConfig.methods`.

        Raises:
            MethodError: The method or a field of it does not exist, or a value has a wrong type.
        """
        values = to_mapping("method", given)
        name = values.pop("method", None)
        if not isinstance(name, str):
            raise MethodError(f"methods: {given!r}: expected a name, or a mapping with `method`")
        label = str(values.pop("label", name))
        against = values.pop("against", None)
        own_space = _parse_space(values.pop("space", {}))
        options = {option: values.pop(option) for option in METHOD_OPTIONS if option in values}
        parts = {slot: _parse_parts(values.pop(slot)) for slot in SLOTS if slot in values}
        _check_names(name, label, (*values, *own_space))
        check_types(values, typing.get_type_hints(get_method(name)), f"methods: {label}: ")
        fixed = {*values, *options} - {*own_space}
        space = {n: c for n, c in {**get_method(name).space, **own_space}.items() if n not in fixed}
        return cls(label, build_method({"name": name, **values}, parts), options, space, against)

    def with_values(self, values: Mapping[str, Any]) -> MethodSpec:
        """Return a copy with other hyperparameters and options, by name."""
        options = {name: value for name, value in values.items() if name in METHOD_OPTIONS}
        fields = {name: value for name, value in values.items() if name not in METHOD_OPTIONS}
        return dataclasses.replace(
            self,
            method=dataclasses.replace(self.method, **fields),
            options={**self.options, **options},
        )


@dataclass(frozen=True)
class TaskSpec:
    """One task of a study.

    Attributes:
        label: Its label in the study.
        options: Options of its runs, including `task` or `data`.
        budget: Budget of a run on it; None for the study's budget.
    """

    label: str
    options: dict[str, Any]
    budget: Budget | None = None

    @classmethod
    def parse(cls, given: Any, named: str | None = None) -> TaskSpec:
        """Build a task from a name, or from a mapping as described in `StudyConfig.task`.

        Args:
            given: The name or the mapping.
            named: Source of the label if the mapping has neither `label`, `task` nor `data`.

        Raises:
            MethodError: The task has no name, sets an option that the study decides, or has an
                invalid budget.
        """
        values = to_mapping("task", given)
        budget = values.pop("budget", None)
        label = values.pop("label", None)
        named = values.get("task") or first_file(values.get("data")) or named
        decided = [name for name in DECIDED_BY_STUDY if name in values and name != "task"]
        if (label or named) is None or decided:
            raise MethodError(
                f"task: {given!r}: expected a name, or a mapping with `task` or `data`, and "
                f"none of {', '.join(DECIDED_BY_STUDY[1:])}"
            )
        own = None if budget is None else Budget.parse(str(budget))
        return cls(str(label) if label else task_name(str(named)), values, own)


def _check_names(method: str, label: str, names: tuple[str, ...]) -> None:
    """Refuse names that are neither fields of the method nor options of its own."""
    fields = {field.name for field in dataclasses.fields(get_method(method))} - {"plugged"}
    for name in names:
        if name not in {*fields, *METHOD_OPTIONS}:
            raise MethodError(
                f"methods: {label}: {name}: expected one of its fields "
                f"({', '.join(sorted(fields))}), or an option that may differ between methods "
                f"({', '.join(METHOD_OPTIONS)})"
            )


def _parse_parts(given: Any) -> list[dict[str, Any]]:
    """Return the plugged parts of one slot: a name, a mapping with `name`, or a list of them."""
    several = given if isinstance(given, list) else [given]
    parts = [to_mapping("name", part) for part in several]
    if not all("name" in part for part in parts):
        raise MethodError(f"{given!r}: expected the name of a part, or a mapping with `name`")
    return parts


def _parse_space(given: Any) -> dict[str, LogRange | OneOf]:
    """Return the search space that YAML describes."""
    if not isinstance(given, Mapping):
        raise MethodError(f"space = {given!r}: expected a mapping, from names to what to search")
    space: dict[str, LogRange | OneOf] = {}
    for name, value in given.items():
        try:
            space[name] = _parse_choice(value)
        except (MethodError, TypeError, ValueError) as error:
            raise MethodError(f"space: {name} = {value!r}: {error}") from error
    return space


def _parse_choice(value: Any) -> LogRange | OneOf:
    if isinstance(value, Mapping) and set(value) == {"low", "high"}:
        return LogRange(float(value["low"]), float(value["high"]))
    if isinstance(value, list):
        return OneOf(tuple(value))
    raise MethodError("expected a list of values, or low and high")
