"""A progress bar with loss, phase and time left."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rankwright.core.run import Run
from rankwright.training.trainer import MethodMixin


@contextlib.contextmanager
def progress_bar(console: Console) -> Iterator[Callable[[MethodMixin], RichProgress]]:
    """Makes the bar of a trainer, and releases the terminal however the training ends.

    Args:
        console: Where to draw.
    """
    with contextlib.ExitStack() as bars:
        yield lambda trainer: bars.enter_context(
            contextlib.closing(RichProgress(trainer.run, console))
        )


class RichProgress(TrainerCallback):
    """Shows where a run is; use with `disable_tqdm=True` in the training arguments.

    Args:
        run: The run, for the name of its phase.
        console: Where to draw; one that is no terminal gets a line at every logged loss instead.
    """

    def __init__(self, run: Run, console: Console | None = None) -> None:
        self._run = run
        self._console = console or Console(stderr=True)
        self._loss = ""
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TextColumn("elapsed"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._bar = self._progress.add_task("train", loss="")

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Start the bar; a resumed run starts where it is."""
        if state.is_world_process_zero:
            self._progress.update(self._bar, total=state.max_steps, completed=state.global_step)
            self._progress.start()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Advance by one step."""
        self._progress.update(
            self._bar,
            completed=state.global_step,
            description=self._phase(state.global_step - 1),
            loss=self._loss,
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
        if not self._console.is_terminal:
            phase = self._phase(max(state.global_step - 1, 0))
            self._console.print(
                f"{phase}: step {state.global_step}/{state.max_steps}, {self._loss}"
            )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Leave the bar as it is and release the terminal."""
        self.close()

    def close(self) -> None:
        """Release the terminal; also after an error or an interrupt, of which no callback hears."""
        self._progress.stop()

    def _phase(self, step: int) -> str:
        return self._run.phases[self._run.phase_at(step)[0]].name
