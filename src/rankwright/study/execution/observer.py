"""Callbacks on the progress of a study."""

from __future__ import annotations

from rankwright.study.planning.plan import Plan
from rankwright.study.records.records import PlannedRun


class Observer:
    """Callbacks on the progress of a study, called from several threads; none does anything."""

    def planned(self, plan: Plan) -> None:
        """The runs are known, or have changed."""

    def notify(self, text: str) -> None:
        """There is a line for the user."""

    def finished(self, run: PlannedRun) -> None:
        """A run has its record."""

    def failed(self, run: PlannedRun, error: str) -> None:
        """A run has ended with an error."""


def announce_notices(plan: Plan, observer: Observer) -> None:
    """Tell the user the remarks on the rows of every task."""
    for task in plan.record.tasks:
        for notice in task.notices:
            observer.notify(f"{task.task}: {notice}")
