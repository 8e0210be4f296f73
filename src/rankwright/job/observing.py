"""Callbacks that log the phases and a validation curve of a run, for `rankwright plot`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rankwright.core.run import Run

CURVE_POINTS = 5
"""Evaluations during a run, the last one at its end."""
PHASES = "phases"
"""Key of the entry of a log that holds the phases: a list of `{"name": ..., "steps": ...}`."""


class PhaseNote(TrainerCallback):
    """Puts the phases of a run at the start of its log.

    Args:
        run: The run.
    """

    def __init__(self, run: Run) -> None:
        self._run = run

    def on_train_begin(
        self, _: TrainingArguments, state: TrainerState, *__: Any, **___: Any
    ) -> None:
        """Log the phases, unless the log of a resumed run has them."""
        if not any(PHASES in entry for entry in state.log_history):
            phases = [{"name": phase.name, "steps": phase.steps} for phase in self._run.phases]
            state.log_history.insert(0, {"step": 0, PHASES: phases})


class ValidationCurve(TrainerCallback):
    """Evaluates on the validation rows at equal intervals during training.

    The steps are fixed, so that a resumed run has the same points.
    """

    def on_step_end(
        self, _: TrainingArguments, state: TrainerState, control: TrainerControl, **__: Any
    ) -> None:
        """Ask for an evaluation at the points of the curve."""
        points = {round(k * state.max_steps / CURVE_POINTS) for k in range(1, CURVE_POINTS + 1)}
        if state.global_step in points:
            control.should_evaluate = True


def evaluation_seconds(log: Iterable[Mapping[str, Any]]) -> float:
    """Return the wall time of the evaluations in a log, in seconds."""
    return float(sum(entry.get("eval_runtime", 0.0) for entry in log))
