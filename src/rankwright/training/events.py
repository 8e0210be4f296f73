"""Translate the Trainer's callbacks into events of the run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rankwright.training import checkpoint

if TYPE_CHECKING:
    from rankwright.training.trainer import MethodMixin


def events_of(trainer: MethodMixin) -> TrainerCallback:
    """Make the callback that fires the events of a trainer's run."""
    return _Events(trainer)


class _Events(TrainerCallback):
    """Turns the Trainer's callbacks into the events of the run."""

    def __init__(self, trainer: MethodMixin) -> None:
        self._trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if args.should_save:
            checkpoint.remove_leftovers(Path(args.output_dir))
        self._trainer._totals.begin()
        self._trainer.run.step = state.global_step
        self._trainer.run.begin(state.max_steps)

    def on_epoch_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: Any = None,
        **_: Any,
    ) -> None:
        # On resumption in several processes the epoch does not get through accelerate's wrappers.
        source = train_dataloader
        while hasattr(source, "batch_sampler"):
            source = source.batch_sampler
        sampler = getattr(source, "sampler", None)
        if sampler is not None and hasattr(sampler, "set_epoch"):
            sampler.set_epoch(int(state.epoch or 0))

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        run = self._trainer.run
        run.step = state.global_step
        run.micro_batches = []
        self._trainer._cost.start_step(run)
        run.fire("before_step")

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._trainer.run.fire("after_step")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        trainer = self._trainer
        trainer._cost.end_step()
        if trainer._termination.agreed(args.device):
            trainer.interrupted = True
            control.should_save = True
            control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if not self._trainer.interrupted:
            self._trainer.run.finish()
