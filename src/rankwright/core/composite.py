"""Several procedures in one slot.

Every event reaches them in the order they stand in. Questions whose answers add up are added up;
one with a single answer (the phases, the rows, the roles, ...) may be answered by one of them only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rankwright.core.part_registry import part_name
from rankwright.core.run import Run
from rankwright.core.schedule import Multiplier, Phase, Shape
from rankwright.core.slots import Procedure, ProcedureState
from rankwright.errors import MethodError

SINGLE = ("phases", "rows", "held_out_rows", "role", "group_options", "schedule")
"""Questions with one answer."""


@dataclass(frozen=True)
class Together(Procedure):
    """Procedures around the same steps.

    Attributes:
        procedures: Events reach them in this order.
    """

    procedures: tuple[Procedure, ...]

    def members(self) -> tuple[Procedure, ...]:
        """See `Part.members`."""
        return self.procedures

    def passes(self, total_steps: int) -> float:
        """One a step, and what each of them adds."""
        extra = (procedure.passes(total_steps) - total_steps for procedure in self.procedures)
        return total_steps + sum(extra)

    def start(self, run: Run) -> TogetherState:
        """See `Procedure.start`.

        Raises:
            MethodError: Two of them answer a question that has one answer.
        """
        return TogetherState(run, self)


class TogetherState(ProcedureState):
    """Procedures at work, by name."""

    def __init__(self, run: Run, together: Together) -> None:
        super().__init__(run)
        self.states = {part_name(part): part.start(run) for part in together.procedures}
        states = self.states.values()
        self.needs = frozenset().union(*(state.needs for state in states))
        self.replays = any(state.replays for state in states)
        self.asks_held_out = any(state.asks_held_out for state in states)
        self.restricts_rows = any(state.restricts_rows for state in states)
        self._answering = {question: self._only(question) for question in SINGLE}

    def members(self) -> Iterator[ProcedureState]:
        """See `ProcedureState.members`."""
        for state in self.states.values():
            yield from state.members()

    def _only(self, question: str) -> ProcedureState:
        """The one that answers a question; where none does, any gives the default."""
        answering = {
            name: state for name, state in self.states.items() if _answers(state, question)
        }
        if len(answering) > 1:
            raise MethodError(
                f"{' and '.join(answering)} do not go together: both decide on the "
                f"{question.replace('_', ' ')} of a run"
            )
        return next(iter(answering.values()), ProcedureState(self.run))

    # Questions with one answer -------------------------------------------------------------------

    def phases(self, total_steps: int) -> list[Phase]:
        """See `ProcedureState.phases`."""
        return self._answering["phases"].phases(total_steps)

    def rows(self, phase: int) -> Sequence[int] | None:
        """See `ProcedureState.rows`."""
        return self._answering["rows"].rows(phase)

    def held_out_rows(self) -> Sequence[int]:
        """See `ProcedureState.held_out_rows`."""
        return self._answering["held_out_rows"].held_out_rows()

    def role(self, name: str) -> str:
        """See `ProcedureState.role`."""
        return self._answering["role"].role(name)

    def group_options(self, role: str) -> dict[str, Any]:
        """See `ProcedureState.group_options`."""
        return self._answering["group_options"].group_options(role)

    def schedule(self, role: str, shape: Shape, total_steps: int) -> Multiplier:
        """See `ProcedureState.schedule`."""
        return self._answering["schedule"].schedule(role, shape, total_steps)

    # Events, in order ----------------------------------------------------------------------------

    def begin(self) -> None:
        """See `ProcedureState.begin`."""
        for state in self.states.values():
            state.begin()

    def before_step(self) -> None:
        """See `ProcedureState.before_step`."""
        for state in self.states.values():
            state.before_step()

    def after_backward(self) -> None:
        """See `ProcedureState.after_backward`."""
        for state in self.states.values():
            state.after_backward()

    def after_step(self) -> None:
        """See `ProcedureState.after_step`."""
        for state in self.states.values():
            state.after_step()

    def end(self) -> None:
        """See `ProcedureState.end`."""
        for state in self.states.values():
            state.end()

    def abandon(self) -> None:
        """See `ProcedureState.abandon`."""
        for state in self.states.values():
            state.abandon()

    @contextlib.contextmanager
    def replaying(self, batch: Any) -> Iterator[None]:
        """See `ProcedureState.replaying`."""
        with contextlib.ExitStack() as stack:
            for state in self.states.values():
                stack.enter_context(state.replaying(batch))
            yield

    # State ---------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The state of each, by name."""
        return {name: state.state_dict() for name, state in self.states.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo of `state_dict`."""
        for name, member in self.states.items():
            member.load_state_dict(state[name])


def _answers(state: ProcedureState, question: str) -> bool:
    if question == "rows" and not state.restricts_rows:
        return False
    return getattr(type(state), question) is not getattr(ProcedureState, question)
