"""What to compare: from a YAML file or the command line to methods, tasks, seeds and a budget."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Any, TypeVar

from rankwright.core.fields import check_field
from rankwright.core.method import Method
from rankwright.core.method_registry import get_method
from rankwright.core.part_registry import SLOTS
from rankwright.core.search_space import LogRange, OneOf, SearchSpace
from rankwright.errors import MethodError
from rankwright.job import TrainConfig, build_method
from rankwright.study.planning.budget import Budget
from rankwright.study.records.names import in_file_names
from rankwright.tasks import task_name

DECIDED = ("task", "output", "seed", "epochs", "steps", "tuning_share")
"""Options of a run that the study decides."""
RATES = ("learning_rate", "head_learning_rate")
OF_A_METHOD = (*RATES, "weight_decay", "schedule", "warmup", "max_grad_norm")
"""Options of a run that may differ from method to method; the data and its order may not."""
PICKS = "load_best_model_at_end"
"""The Trainer's option that a study refuses."""


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """One study.

    Attributes:
        methods: Names of methods, comma separated, or in YAML a list of names and of mappings with
            `method` (a name), `label` (what the study calls it), `space` (what to tune over
            beside what the method declares; a list of values, or {low, high}), options of the run
            such as learning_rate, fields of the method, and parts by slot. What is given here is
            not tuned. `against` (a label) is what the method is compared with instead of the
            baseline.
        task: Names of tasks, comma separated, or in YAML a list of names and of mappings with
            `label`, `budget` where it is not the study's, and options of the run, such as
            {label: rte-500, task: rte, train_rows: 500}.
        model: Folder or hub name of a pretrained model, or "minilm".
        seeds: How many seeds, from 0 on, or the seeds themselves: 0,1,5 or in YAML a list.
        budget: What every run may cost: "2000-passes" forward and backward through the model, or
            "90-seconds" of training. A method that takes three passes a step gets fewer steps.
        tune: Trials of every method on every task before its runs, fewer where there are fewer
            points to try; 0 for none.
        tuning_share: Where a task has no test rows its validation rows are reported; then trials
            are scored on this share of the training rows.
        storage: Optuna storage URL of the trials, such as postgresql://me@host/database; None for
            a file in the study's folder. Machines that share one divide the trials.
        baseline: Label of the method that the others are compared with; None for the first.
        jobs: Processes at a time.
        output: Folder of the study; None for studies/<tasks>.
        held_text: Text file that forgetting is measured on where a task is generative; None for
            docstrings of the standard library.
        curve_points: Evaluations on the validation rows in the course of a run.
        keep_adapters: Whether the adapters of all runs stay.
        options: Options of every run by name, such as batch_size.
        file: Text of the YAML file that all this was read from, without a password; None for the
            command line alone.
    """

    methods: Any
    task: Any
    model: str = "minilm"
    seeds: Any = 5
    budget: str = "300-passes"
    tune: int = 0
    tuning_share: float = 0.2
    storage: str | None = None
    baseline: str | None = None
    jobs: int = 1
    output: str | None = None
    held_text: str | None = None
    curve_points: int = 8
    keep_adapters: bool = True
    options: dict[str, Any] = field(default_factory=dict)
    file: str | None = None

    def __post_init__(self) -> None:
        """Check what needs no data.

        Raises:
            MethodError: A value is out of its range.
        """
        for name, least in (("tune", 0), ("jobs", 1), ("curve_points", 1)):
            check_field(self, name, getattr(self, name) >= least, f"at least {least}")
        check_field(self, "tuning_share", 0 < self.tuning_share < 1, "a share between 0 and 1")
        for name in self.options:
            if name in DECIDED:
                raise MethodError(f"{name}: a study decides this for every run; leave it out")
        methods = self.parsed_methods
        labels = [method.label for method in methods]
        check_field(
            self,
            "baseline",
            self.baseline is None or self.baseline in labels,
            f"one of {', '.join(labels)}",
        )
        for method in methods:
            others = [label for label in labels if label != method.label]
            if method.against is not None and method.against not in others:
                raise MethodError(
                    f"methods: {method.label}: against = {method.against!r}: expected another "
                    f"method of the study: {', '.join(others)}"
                )
        _ = self.parsed_budget, self.parsed_seeds
        for task in self.parsed_tasks:
            for method in methods:
                self.train_config(task, method)

    @property
    def parsed_budget(self) -> Budget:
        """The budget."""
        return Budget.parse(self.budget)

    @property
    def parsed_seeds(self) -> tuple[int, ...]:
        """The seeds."""
        seeds = range(self.seeds) if isinstance(self.seeds, int) else self.seeds
        if isinstance(seeds, str):  # the command line's 0,1,2
            seeds = [int(seed) if seed.strip().isdecimal() else seed for seed in seeds.split(",")]
        whole = isinstance(seeds, Sequence) and all(isinstance(s, int) and s >= 0 for s in seeds)
        check_field(
            self,
            "seeds",
            whole and len(seeds) > 0 and len(set(seeds)) == len(seeds),
            "a number of at least 1, or different whole numbers such as 0,1,5",
        )
        return tuple(seeds)

    @property
    def parsed_methods(self) -> tuple[MethodSpec, ...]:
        """The methods."""
        return _distinct("methods", map(MethodSpec.parse, _listed("methods", self.methods)))

    @property
    def parsed_tasks(self) -> tuple[TaskSpec, ...]:
        """The tasks."""
        if self.task is None:  # files of the user's own
            return (TaskSpec.parse({}, _first(self.options.get("data"))),)
        return _distinct("task", map(TaskSpec.parse, _listed("task", self.task)))

    def budget_of(self, task: TaskSpec) -> Budget:
        """The budget of a run on the task."""
        return task.budget or self.parsed_budget

    def train_config(self, task: TaskSpec, method: MethodSpec, **values: Any) -> TrainConfig:
        """The description of one run.

        Raises:
            MethodError: An option does not exist, its value is out of range, or a study cannot
                have it.
        """
        middle = {
            name: choice.middle
            for name in RATES
            if isinstance(choice := method.space.get(name), LogRange)
        }
        options = {**middle, **self.options, **task.options, **method.options, **values}
        types = typing.get_type_hints(TrainConfig)
        for name in options:
            if name not in types:
                raise MethodError(f"{name}: a run has no such option; see rankwright train --help")
        _check_types(options, types, "")
        config = TrainConfig(model=self.model, **options)
        if config.trainer.get(PICKS):
            raise MethodError(
                f"trainer.{PICKS} = {config.trainer[PICKS]!r}: a study reports every method after "
                "its last step, not after the one whose checkpoint did best on the validation "
                "rows, which may be the reported ones; leave it out"
            )
        return config


@dataclass(frozen=True)
class MethodSpec:
    """One method of a study.

    Attributes:
        label: What the study calls it.
        method: The method with its hyperparameters.
        options: Options of its runs.
        space: What it is tuned over; nothing that the user has set.
        against: Label of what it is compared with; None for the baseline.
    """

    label: str
    method: Method
    options: dict[str, Any]
    space: SearchSpace
    against: str | None = None

    @classmethod
    def parse(cls, given: Any) -> MethodSpec:
        """From a name, or a mapping as `StudyConfig.methods` has it.

        Raises:
            MethodError: There is no such method, or no such field.
        """
        values = _mapping("method", given)
        name = values.pop("method", None)
        if not isinstance(name, str):
            raise MethodError(f"methods: {given!r}: expected a name, or a mapping with `method`")
        label = str(values.pop("label", name))
        against = values.pop("against", None)
        own_space = _space(values.pop("space", {}))
        options = {option: values.pop(option) for option in OF_A_METHOD if option in values}
        parts = {slot: _parts(values.pop(slot)) for slot in SLOTS if slot in values}
        space = {**get_method(name).space, **own_space}
        fixed = {*values, *options} - {*own_space}
        fields = {field.name for field in dataclasses.fields(get_method(name))} - {"plugged"}
        for given_name in (*values, *own_space):
            if given_name not in {*fields, *OF_A_METHOD}:
                raise MethodError(
                    f"methods: {label}: {given_name}: expected one of its fields "
                    f"({', '.join(sorted(fields))}), or an option that may differ between methods "
                    f"({', '.join(OF_A_METHOD)})"
                )
        _check_types(values, typing.get_type_hints(get_method(name)), f"methods: {label}: ")
        method = build_method({"name": name, **values}, parts)
        space = {n: c for n, c in space.items() if n not in fixed}
        return cls(label, method, options, space, against)

    def with_values(self, values: Mapping[str, Any]) -> MethodSpec:
        """The same with other hyperparameters and options, by name."""
        options = {name: value for name, value in values.items() if name in OF_A_METHOD}
        fields = {name: value for name, value in values.items() if name not in OF_A_METHOD}
        return dataclasses.replace(
            self,
            method=dataclasses.replace(self.method, **fields),
            options={**self.options, **options},
        )


@dataclass(frozen=True)
class TaskSpec:
    """One task of a study.

    Attributes:
        label: What the study calls it.
        options: Options of its runs, `task` or `data` among them.
        budget: What a run on it may cost; None for the study's budget.
    """

    label: str
    options: dict[str, Any]
    budget: Budget | None = None

    @classmethod
    def parse(cls, given: Any, named: str | None = None) -> TaskSpec:
        """From a name, or a mapping as `StudyConfig.task` has it.

        Args:
            given: The name or the mapping.
            named: What a task without a label is called after, where the mapping has neither
                `task` nor `data`.

        Raises:
            MethodError: It is neither, sets what the study decides, or has no budget that can be.
        """
        values = _mapping("task", given)
        budget = values.pop("budget", None)
        label = values.pop("label", None)
        named = values.get("task") or _first(values.get("data")) or named
        decided = [name for name in DECIDED if name in values and name != "task"]
        if (label or named) is None or decided:
            raise MethodError(
                f"task: {given!r}: expected a name, or a mapping with `task` or `data`, and "
                f"none of {', '.join(DECIDED[1:])}"
            )
        own = None if budget is None else Budget.parse(str(budget))
        return cls(str(label) if label else task_name(str(named)), values, own)


Spec = TypeVar("Spec", MethodSpec, TaskSpec)


def _check_types(values: Mapping[str, Any], types: Mapping[str, Any], where: str) -> None:
    """Refuse a text where a number belongs, which YAML and Python let pass, and the like."""
    for name, value in values.items():
        if not _fits(value, types[name]):
            expected = getattr(types[name], "__name__", None) or types[name]
            raise MethodError(f"{where}{name} = {value!r}: expected {expected}")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a simple type; of any other, which have checks of their own."""
    if isinstance(hint, UnionType):
        return any(_fits(value, alternative) for alternative in typing.get_args(hint))
    if hint in (int, float) and isinstance(value, bool):
        return False
    if hint is float:
        return isinstance(value, int | float)
    return isinstance(value, hint) if hint in (int, str, bool, NoneType) else True


def _first(data: str | Sequence[str] | None) -> str | None:
    """The name of a file, or of the first of several."""
    return data if data is None or isinstance(data, str) else str(data[0])


def _listed(name: str, value: Any) -> list[Any]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not parts:
        raise MethodError(f"{name} = {value!r}: expected names, comma separated or in a list")
    return [part.strip() if isinstance(part, str) else part for part in parts]


def _mapping(name: str, given: Any) -> dict[str, Any]:
    """What YAML has for one method or task; empty for what is neither a name nor a mapping."""
    if isinstance(given, str):
        return {name: given}
    return dict(given) if isinstance(given, Mapping) else {}


def _distinct(name: str, specs: Iterable[Spec]) -> tuple[Spec, ...]:
    found = tuple(specs)
    labels = [spec.label for spec in found]
    for label in labels:
        same = [other for other in labels if in_file_names(other) == in_file_names(label)]
        if len(same) > 1:
            raise MethodError(
                f"{name}: {' and '.join(map(repr, same))} have the same files; give each its own "
                "`label`"
            )
    return found


def _parts(given: Any) -> list[dict[str, Any]]:
    """Plugged parts of one slot: a name, a mapping with `name`, or a list of them."""
    several = given if isinstance(given, list) else [given]
    parts = [_mapping("name", part) for part in several]
    if not all("name" in part for part in parts):
        raise MethodError(f"{given!r}: expected the name of a part, or a mapping with `name`")
    return parts


def _space(given: Any) -> dict[str, LogRange | OneOf]:
    """A search space as YAML has it."""
    if not isinstance(given, Mapping):
        raise MethodError(f"space = {given!r}: expected a mapping, from names to what to search")
    space: dict[str, LogRange | OneOf] = {}
    for name, value in given.items():
        try:
            space[name] = _choice(value)
        except (MethodError, TypeError, ValueError) as error:
            raise MethodError(f"space: {name} = {value!r}: {error}") from error
    return space


def _choice(value: Any) -> LogRange | OneOf:
    if isinstance(value, Mapping) and set(value) == {"low", "high"}:
        return LogRange(float(value["low"]), float(value["high"]))
    if isinstance(value, list):
        return OneOf(tuple(value))
    raise MethodError("expected a list of values, or low and high")
