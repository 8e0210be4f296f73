"""Callbacks that report the progress of a study."""

from __future__ import annotations

from rankwright.study.planning.plan import Plan
from rankwright.study.records.records import PlannedRun


class Observer:
    """Hears how a study gets on; does nothing by itself. Calls come from several threads."""

    def planned(self, plan: Plan) -> None:
        """The runs are known, or have changed."""

    def says(self, text: str) -> None:
        """Something that the user should know."""

    def finished(self, run: PlannedRun) -> None:
        """A run has its record."""

    def failed(self, run: PlannedRun, error: str) -> None:
        """A run has ended with an error."""
