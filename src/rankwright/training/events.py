"""Translate the Trainer's callbacks into the events of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rankwright.training import checkpoint
from rankwright.training.cost import CostMeter
from rankwright.training.run import TrainerRun
from rankwright.training.signals import Termination
from rankwright.training.totals import Totals


class RunEvents(TrainerCallback):
    """Fires the events of a run, measures its steps and ends it on SIGTERM.

    Args:
        run: The run.
        cost: Measures the steps.
        totals: Totals that a resumed run continues.
        termination: Knows whether the run should stop.
    """

    def __init__(
        self, run: TrainerRun, cost: CostMeter, totals: Totals, termination: Termination
    ) -> None:
        self._run = run
        self._cost = cost
        self._totals = totals
        self._termination = termination

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Delete half-written checkpoints and begin the run, or continue it."""
        if args.should_save:
            checkpoint.remove_leftovers(Path(args.output_dir))
        self._totals.begin()
        self._run.step = state.global_step
        self._run.begin(state.max_steps)

    def on_epoch_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: Any = None,
        **_: Any,
    ) -> None:
        """Tell the sampler its epoch.

        When a run of several processes is resumed, accelerate's wrappers do not pass the epoch on.
        """
        source = train_dataloader
        while hasattr(source, "batch_sampler"):
            source = source.batch_sampler
        sampler = getattr(source, "sampler", None)
        if sampler is not None and hasattr(sampler, "set_epoch"):
            sampler.set_epoch(int(state.epoch or 0))

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Fire `before_step`."""
        self._run.step = state.global_step
        self._run.micro_batches = []
        self._cost.start_step(self._run)
        self._run.fire("before_step")

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Fire `after_step`."""
        self._run.fire("after_step")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Save and stop if any process was asked to."""
        self._cost.end_step()
        if self._termination.stop_if_requested(args.device):
            control.should_save = True
            control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Finish the run if it is complete."""
        if not self._termination.stopped:
            self._run.finish()
