"""One line with loss, phase and time left, drawn again and again; in a pipe, a line a loss."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rankwright.core.run import Run
from rankwright.training.trainer import MethodMixin

BEFORE = "before training"
_BESIDES = ("epoch", "eval_loss")
_TIMES = ("_runtime", "_per_second")
_WIDE = 110
"""Columns of a terminal that has room for the last evaluation, too."""


@contextlib.contextmanager
def progress_bar(console: Console) -> Iterator[Callable[[MethodMixin], RichProgress]]:
    """Makes the bar of a trainer, and releases the terminal however the training ends.

    It is drawn at once, since an evaluation before training may take minutes.

    Args:
        console: Where to draw.
    """
    with contextlib.ExitStack() as bars:

        def started(trainer: MethodMixin) -> RichProgress:
            bar = bars.enter_context(contextlib.closing(RichProgress(trainer.run, console)))
            if trainer.is_world_process_zero():
                bar.start()
            return bar

        yield started


class RichProgress(TrainerCallback):
    """Shows where a run is; use with `disable_tqdm=True` in the training arguments.

    The time left is that of the passes left: a step that takes three of them takes three times as
    long as one that takes one.

    Args:
        run: The run, for its phases and its passes.
        console: Where to draw; one that is no terminal gets a line at every logged loss instead.
    """

    def __init__(self, run: Run, console: Console | None = None) -> None:
        self._run = run
        self._console = console or Console(stderr=True)
        self._loss = self._validated = ""
        self._started: tuple[float, float] | None = None
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TextColumn("elapsed"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._bar = self._progress.add_task(BEFORE, total=None, loss="", left="")

    def start(self) -> None:
        """Draw the line from now on."""
        self._progress.start()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Start the bar; a resumed run starts where it is."""
        if state.is_world_process_zero:
            self._started = time.monotonic(), self._run.passes
            self._progress.reset(
                self._bar,
                total=state.max_steps,
                completed=state.global_step,
                description=self._phase(state.global_step),
            )
            self.start()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Advance by one step."""
        self._progress.update(
            self._bar,
            completed=state.global_step,
            description=self._phase(state.global_step - 1),
            loss=self._figures(),
            left=self._left() if state.global_step < state.max_steps else "",
        )

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Take over the latest loss."""
        if not logs or "loss" not in logs or not state.is_world_process_zero:
            return
        self._loss = f"loss {float(logs['loss']):.4f}"
        self._print(state, self._loss)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Take over the loss and the first metric of an evaluation in the course of training."""
        if metrics and self._started is not None and state.is_world_process_zero:
            words = "".join(f", {words}" for words in _validation(metrics))
            self._validated = f", validation{words.removeprefix(',')}"
            self._progress.update(self._bar, loss=self._figures())
            self._print(state, self._validated.removeprefix(", "))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Leave the bar as it is and release the terminal."""
        self._started = None
        self.close()

    def close(self) -> None:
        """Release the terminal; also after an error or an interrupt, of which no callback hears."""
        self._progress.stop()

    def _figures(self) -> str:
        """The latest loss, and where there is room the last evaluation."""
        return self._loss + (self._validated if self._console.width >= _WIDE else "")

    def _print(self, state: TrainerState, text: str) -> None:
        """A line, where nothing is drawn."""
        if not self._console.is_terminal:
            phase = self._phase(max(state.global_step - 1, 0))
            self._console.print(f"{phase}: step {state.global_step}/{state.max_steps}, {text}")

    def _phase(self, step: int) -> str:
        return self._run.phases[self._run.phase_at(step)[0]].name

    def _left(self) -> str:
        """The time that the passes left will take, at the speed of those of this process."""
        if self._started is None:
            return ""
        since, passes = self._started
        done = self._run.passes - passes
        total = self._run.method.made_of().passes(self._run.total_steps)
        left = max(0.0, total - self._run.passes) * (time.monotonic() - since) / max(done, 1e-9)
        return f"left {timedelta(seconds=round(left))}"


def _validation(metrics: Mapping[str, float]) -> Iterator[str]:
    """The loss of an evaluation, and the metric that stands first in it."""
    if "eval_loss" in metrics:
        yield f"loss {metrics['eval_loss']:.4f}"
    for name, value in metrics.items():
        if name not in _BESIDES and not name.endswith(_TIMES):
            yield f"{name.removeprefix('eval_')} {value:.4f}"
            return
