"""A progress line with loss, phase and time left; in a pipe, one line for each logged loss."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rankwright.core.engine import Engine
from rankwright.training.trainer import MethodMixin

BEFORE = "before training"
_BESIDES = ("epoch", "eval_loss")
_TIMES = ("_runtime", "_per_second")
_WIDE = 110
"""Terminal width from which the last evaluation is shown, too."""


@contextlib.contextmanager
def progress_bar(console: Console) -> Iterator[Callable[[MethodMixin], RichProgress]]:
    """Provide a function that makes a trainer's bar; release the terminal however training ends.

    The bar is drawn at once, since an evaluation before training may take minutes.

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

    The time left is estimated from the remaining passes: a step of three passes takes three times
    as long as a step of one.

    Args:
        run: The run, for its phases and its passes.
        console: Where to draw; one that is no terminal gets a line at every logged loss instead.
    """

    def __init__(self, run: Engine, console: Console | None = None) -> None:
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
        """Start drawing."""
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
        """Show the loss and the first metric of an evaluation during training."""
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
        """The latest loss and, if there is room, the last evaluation."""
        return self._loss + (self._validated if self._console.width >= _WIDE else "")

    def _print(self, state: TrainerState, text: str) -> None:
        """Print a line if no bar is drawn."""
        if not self._console.is_terminal:
            phase = self._phase(max(state.global_step - 1, 0))
            self._console.print(f"{phase}: step {state.global_step}/{state.max_steps}, {text}")

    def _phase(self, step: int) -> str:
        return self._run.phases[self._run.phase_at(step)[0]].name

    def _left(self) -> str:
        """Estimated time for the remaining passes, at the speed of this process so far."""
        if self._started is None:
            return ""
        since, passes = self._started
        done = self._run.passes - passes
        total = self._run.slots.passes(self._run.total_steps)
        left = max(0.0, total - self._run.passes) * (time.monotonic() - since) / max(done, 1e-9)
        return f"left {timedelta(seconds=round(left))}"


def _validation(metrics: Mapping[str, float]) -> Iterator[str]:
    """Yield the loss of an evaluation and its first other metric."""
    if "eval_loss" in metrics:
        yield f"loss {metrics['eval_loss']:.4f}"
    for name, value in metrics.items():
        if name not in _BESIDES and not name.endswith(_TIMES):
            yield f"{name.removeprefix('eval_')} {value:.4f}"
            return
