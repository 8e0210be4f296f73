"""Several penalties or procedures in one slot.

Penalties add up. Every event reaches all procedures in order; their costs add up, and each question
with a single answer (the phases, the rows, the roles, ...) may be answered by only one of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rankwright.core.model_call import ModelCall
from rankwright.core.part_registry import part_name
from rankwright.core.run import Run
from rankwright.core.schedule import Multiplier, Phase, Shape
from rankwright.core.slots import Penalty, Procedure, ProcedureState
from rankwright.errors import MethodError

SINGLE_ANSWER = ("phases", "rows", "held_out_rows", "role", "group_options", "schedule")
"""Methods of `ProcedureState` that only one of several procedures may override."""


def sum_penalties(penalties: tuple[Penalty, ...]) -> Penalty | None:
    """Combine penalties into one; None for none."""
    return PenaltySum(penalties) if len(penalties) > 1 else next(iter(penalties), None)


def combine_procedures(procedures: tuple[Procedure, ...]) -> Procedure:
    """Combine procedures into one; the default procedure for none."""
    if len(procedures) > 1:
        return CompositeProcedure(procedures)
    return next(iter(procedures), Procedure())


@dataclass(frozen=True)
class PenaltySum(Penalty):
    """Sum of several penalties."""

    penalties: tuple[Penalty, ...]

    def members(self) -> tuple[Penalty, ...]:
        """See `Part.members`."""
        return self.penalties

    def check_run(self, run: Run) -> None:
        """See `Penalty.check_run`."""
        for penalty in self.penalties:
            penalty.check_run(run)

    def __call__(self, run: Run) -> Tensor | None:
        """See `Penalty.__call__`."""
        return add_terms(penalty(run) for penalty in self.penalties)

    def of_outputs(self, run: Run, call: ModelCall) -> Tensor | None:
        """See `Penalty.of_outputs`."""
        return add_terms(penalty.of_outputs(run, call) for penalty in self.penalties)

    def reads_outputs(self) -> bool:
        """See `Penalty.reads_outputs`."""
        return any(penalty.reads_outputs() for penalty in self.penalties)

    def forwards(self) -> int:
        """See `Penalty.forwards`."""
        return sum(penalty.forwards() for penalty in self.penalties)


def add_terms(terms: Iterable[Tensor | None]) -> Tensor | None:
    """Return the sum of the terms that are not None; None if there is none."""
    total: Tensor | None = None
    for term in terms:
        if term is not None:
            total = term if total is None else total + term.to(total.device)
    return total


@dataclass(frozen=True)
class CompositeProcedure(Procedure):
    """Several procedures around the same steps.

    Attributes:
        procedures: The procedures, in the order in which events reach them.
    """

    procedures: tuple[Procedure, ...]

    def members(self) -> tuple[Procedure, ...]:
        """See `Part.members`."""
        return self.procedures

    def passes(self, total_steps: int) -> float:
        """Return one pass a step, and the additional ones of each procedure."""
        extra = (procedure.passes(total_steps) - total_steps for procedure in self.procedures)
        return total_steps + sum(extra)

    def start(self, run: Run) -> CompositeState:
        """See `Procedure.start`.

        Raises:
            MethodError: Two procedures answer a question that has a single answer.
        """
        return CompositeState(run, self)


class CompositeState(ProcedureState):
    """States of several procedures.

    Attributes:
        states: The states by name of the procedure's part.
    """

    def __init__(self, run: Run, procedure: CompositeProcedure) -> None:
        super().__init__(run)
        self.states = {part_name(part): part.start(run) for part in procedure.procedures}
        states = self.states.values()
        self.needs = frozenset().union(*(state.needs for state in states))
        self.replays = any(state.replays for state in states)
        self.asks_held_out = any(state.asks_held_out for state in states)
        self.restricts_rows = any(state.restricts_rows for state in states)
        self._answering = {question: self._only(question) for question in SINGLE_ANSWER}

    def members(self) -> Iterator[ProcedureState]:
        """See `ProcedureState.members`."""
        for state in self.states.values():
            yield from state.members()

    def _only(self, question: str) -> ProcedureState:
        """Return the procedure that overrides a question, else one with the default answer."""
        answering = {
            name: state for name, state in self.states.items() if _answers(state, question)
        }
        if len(answering) > 1:
            raise MethodError(
                f"{' and '.join(answering)} do not go together: both decide on the "
                f"{question.replace('_', ' ')} of a run"
            )
        return next(iter(answering.values()), ProcedureState(self.run))

    # Questions with a single answer --------------------------------------------------------------

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
        """Return the state of each procedure by name."""
        return {name: state.state_dict() for name, state in self.states.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `ProcedureState.load_state_dict`."""
        for name, member in self.states.items():
            member.load_state_dict(state[name])


def _answers(state: ProcedureState, question: str) -> bool:
    if question == "rows" and not state.restricts_rows:
        return False
    return getattr(type(state), question) is not getattr(ProcedureState, question)
