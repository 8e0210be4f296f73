"""The search for one method's hyperparameters on one task, as the plan describes it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rankwright.core.search_space import LogRange, OneOf, SearchSpace
from rankwright.study.planning.plan import Plan
from rankwright.study.planning.sizing import search_space, trial_count
from rankwright.study.planning.specs import METHOD_OPTIONS, MethodSpec
from rankwright.study.records.records import TaskRecord


@dataclass(frozen=True)
class SearchSpec:
    """A search: what is tuned, over which space, with how many trials.

    Attributes:
        plan: The plan of the study.
        task: Label of the task.
        method: The method before tuning.
    """

    plan: Plan
    task: str
    method: MethodSpec

    @property
    def space(self) -> SearchSpace:
        """The search space."""
        return search_space(self.plan, self.task, self.method)

    @property
    def trial_count(self) -> int:
        """The number of trials."""
        return trial_count(self.plan, self.task, self.method)

    @property
    def task_record(self) -> TaskRecord:
        """The record of the task."""
        return self.plan.record.task(self.task)

    @property
    def first_values(self) -> dict[str, Any]:
        """The values of the first trial: the untuned method, as far as it is in the space."""
        config = self.plan.config.train_config(self.plan.config.task_spec(self.task), self.method)
        values = {}
        for name, choice in self.space.items():
            holder = config if name in METHOD_OPTIONS else self.method.method
            values[name] = _clip(choice, getattr(holder, name))
        return values

    @property
    def dependencies(self) -> dict[str, Any]:
        """The settings that trials depend on; trials made under others are not continued."""
        record = self.plan.record
        return {
            "model": record.model,
            "budget": record.budget,
            "trials": record.trials,
            "tuning_seed": record.tuning_seed,
            "task": asdict(self.task_record),
            "method": asdict(record.method(self.method.label)),
        }


def _clip(choice: LogRange | OneOf, value: Any) -> Any:
    """Return the value if the space has it, else the middle of a range or the first of a list."""
    if isinstance(choice, LogRange):
        inside = isinstance(value, int | float) and choice.low <= value <= choice.high
        return float(value) if inside else choice.middle
    return value if value in choice.values else choice.values[0]
