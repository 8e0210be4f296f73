"""The configuration of a study: methods, tasks, seeds, budget and shared options."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rankwright.core.fields import check_field
from rankwright.core.search_space import LogRange
from rankwright.errors import MethodError
from rankwright.job import TrainConfig
from rankwright.study.planning.budget import Budget
from rankwright.study.planning.specs import (
    DECIDED_BY_STUDY,
    LEARNING_RATES,
    MethodSpec,
    TaskSpec,
)
from rankwright.study.planning.values import check_types, first_file, split_names
from rankwright.study.records.names import to_file_name

BEST_CHECKPOINT = "load_best_model_at_end"
"""The Trainer's option that a study refuses."""

Spec = TypeVar("Spec", MethodSpec, TaskSpec)


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """The configuration of one study.

    Attributes:
        methods: Names of methods, comma separated, or in YAML a list of names and of mappings with
            `method` (a name), `label` (its name in the study), `space` (search space beside the one
            that the method declares; a list of values, or {low, high}), options of the run such as
            learning_rate, fields of the method, and parts by slot. Values given here are not
            tuned. `against` (a label) names the method to compare with instead of the baseline.
        task: Names of tasks, comma separated, or in YAML a list of names and of mappings with
            `label`, `budget` if it is not the study's, and options of the run, such as
            {label: rte-500, task: rte, train_rows: 500}.
        model: Folder or hub name of a pretrained model, or "minilm".
        seeds: Number of seeds, counted from 0, or the seeds themselves: 0,1,5 or in YAML a list.
        budget: Cost limit of every run: "2000-passes" forward and backward through the model, or
            "90-seconds" of training. A method that takes three passes a step gets fewer steps.
        tune: Trials of every method on every task before its runs, at most as many as its search
            space has points; 0 for no tuning.
        tuning_share: Share of the training rows that trials are scored on if the task has no test
            rows, so that its validation rows are the reported ones.
        storage: Optuna storage URL of the trials, such as postgresql://me@host/database; None for
            a file in the study's folder. Machines that share a storage divide the trials.
        baseline: Label of the method that the others are compared with; None for the first.
        jobs: Number of processes at a time.
        output: Folder of the study; None for studies/<tasks>.
        held_text: Text file that forgetting is measured on if a task is generative; None for
            docstrings of the standard library.
        curve_points: Evaluations on the validation rows during a run.
        keep_adapters: Whether to keep the adapters of all runs.
        options: Options of every run by name, such as batch_size.
        file: Text of the YAML file of this configuration, without a password; None if there is
            none.
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
        """Check all values, as far as no data is needed.

        Raises:
            MethodError: A value is out of its range.
        """
        for name, least in (("tune", 0), ("jobs", 1), ("curve_points", 1)):
            check_field(self, name, getattr(self, name) >= least, f"at least {least}")
        check_field(self, "tuning_share", 0 < self.tuning_share < 1, "a share between 0 and 1")
        for name in self.options:
            if name in DECIDED_BY_STUDY:
                raise MethodError(f"{name}: a study decides this for every run; leave it out")
        self._check_comparisons()
        _ = self.parsed_budget, self.parsed_seeds
        for task in self.parsed_tasks:
            for method in self.parsed_methods:
                self.train_config(task, method)

    def _check_comparisons(self) -> None:
        """Refuse a baseline or an `against` that is no (other) method of the study."""
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

    @property
    def parsed_budget(self) -> Budget:
        """The budget of a run whose task has no budget of its own."""
        return Budget.parse(self.budget)

    @property
    def parsed_seeds(self) -> tuple[int, ...]:
        """The seeds."""
        seeds = range(self.seeds) if isinstance(self.seeds, int) else self.seeds
        if isinstance(seeds, str):  # 0,1,2 on the command line
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
        names = split_names("methods", self.methods)
        return _check_distinct("methods", map(MethodSpec.parse, names))

    @property
    def parsed_tasks(self) -> tuple[TaskSpec, ...]:
        """The tasks."""
        if self.task is None:  # the user names data files instead
            return (TaskSpec.parse({}, first_file(self.options.get("data"))),)
        return _check_distinct("task", map(TaskSpec.parse, split_names("task", self.task)))

    def task_spec(self, label: str) -> TaskSpec:
        """Return the task of that label."""
        return next(spec for spec in self.parsed_tasks if spec.label == label)

    def budget_of(self, task: TaskSpec) -> Budget:
        """Return the budget of a run on the task."""
        return task.budget or self.parsed_budget

    def train_config(self, task: TaskSpec, method: MethodSpec, **values: Any) -> TrainConfig:
        """Return the description of one run.

        A learning rate that nobody has given is the middle of the method's search range.

        Args:
            task: The task.
            method: The method.
            values: Options that override those of study, task and method.

        Raises:
            MethodError: An option does not exist, is out of its range, or is not for studies.
        """
        middle = {
            name: choice.middle
            for name in LEARNING_RATES
            if isinstance(choice := method.space.get(name), LogRange)
        }
        options = {**middle, **self.options, **task.options, **method.options, **values}
        types = typing.get_type_hints(TrainConfig)
        for name in options:
            if name not in types:
                raise MethodError(f"{name}: a run has no such option; see rankwright train --help")
        check_types(options, types, "")
        config = TrainConfig(model=self.model, **options)
        if config.trainer.get(BEST_CHECKPOINT):
            raise MethodError(
                f"trainer.{BEST_CHECKPOINT} = {config.trainer[BEST_CHECKPOINT]!r}: a study reports "
                "every method after its last step, not after the one whose checkpoint did best on "
                "the validation rows, which may be the reported ones; leave it out"
            )
        return config


def _check_distinct(option: str, specs: Iterable[Spec]) -> tuple[Spec, ...]:
    """Return the specs; refuse two whose labels give the same file names."""
    found = tuple(specs)
    labels = [spec.label for spec in found]
    for label in labels:
        same = [other for other in labels if to_file_name(other) == to_file_name(label)]
        if len(same) > 1:
            raise MethodError(
                f"{option}: {' and '.join(map(repr, same))} have the same files; give each its own "
                "`label`"
            )
    return found
