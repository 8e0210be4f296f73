"""`Run` over a transformers Trainer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from torch import Tensor

from rankwright.core.batch import MicroBatch
from rankwright.core.engine import Engine
from rankwright.core.method import Method
from rankwright.core.random_state import random_state
from rankwright.core.targets import nothing_scored
from rankwright.errors import MethodError, TrainingError
from rankwright.training.normalisation import is_scaled
from rankwright.training.sampling import draw_rows
from rankwright.training.trl import discard_metrics

if TYPE_CHECKING:
    from transformers import Trainer


OPTIMIZER_ARGUMENTS = ("optim", "optim_args", "adam_beta1", "adam_beta2", "adam_epsilon")
"""The Trainer's arguments that choose its optimizer and set it."""


class TrainerRun(Engine):
    """What a part sees of a Trainer.

    Args:
        trainer: The trainer, constructed but not yet training.
        method: The method in training.
        held_out: The user's own second split; None to set rows of the training set aside.
    """

    def __init__(self, trainer: Trainer, method: Method, held_out: Any | None) -> None:
        self._trainer = trainer
        self._own_held_out_rows = held_out
        self.own_held_out = held_out is not None
        self._asked_for_default = False
        super().__init__(trainer.model, method, seed=trainer.args.seed)
        if self.own_held_out and not self.procedure.asks_held_out:
            self.say_once(
                f"{method.label} learns from the training rows alone; the second split that was "
                "given is not used"
            )

    def record(self, inputs: dict[str, Any], num_items: Any) -> None:
        """Note a micro-batch of the step in hand, prepared, before its forward."""
        steps = self._trainer.current_gradient_accumulation_steps
        state = random_state() if self.procedure.replays else None
        self.micro_batches.append(MicroBatch(dict(inputs), state, (num_items, steps)))

    def loss(self, batch: MicroBatch) -> Tensor:
        """See `Run.loss`; the scaling is `Trainer.training_step`'s."""
        trainer = self._trainer
        num_items, accumulation_steps = batch.scale
        penalising = self.penalising(not batch.held_out)
        with trainer.compute_loss_context_manager(), penalising, discard_metrics(trainer):
            loss: Tensor = trainer.compute_loss(
                self.model, dict(batch.inputs), num_items_in_batch=num_items
            )
        return loss if is_scaled(trainer, num_items) else loss / accumulation_steps

    def some_rows(self, batch: MicroBatch, rows: Tensor) -> MicroBatch:
        """See `Run.some_rows`; there are as many fewer targets by which a sum is divided."""
        part = super().some_rows(batch, rows)
        num_items, accumulation_steps = batch.scale
        if num_items is not None:
            part.scale = (num_items * part.share, accumulation_steps)
        return part

    def default_optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """What the trainer's arguments say."""
        self._asked_for_default = True
        trainer = self._trainer
        cls, options = trainer.optimizer_cls_and_kwargs or trainer.get_optimizer_cls_and_kwargs(
            trainer.args, trainer.model
        )
        built: torch.optim.Optimizer = cls(groups, **options)
        return built

    def warn_unused(self) -> None:
        """Warn of arguments for an optimizer that the method does not use."""
        args, fields = self._trainer.args, type(self._trainer.args).__dataclass_fields__
        given = [
            name for name in OPTIMIZER_ARGUMENTS if getattr(args, name) != fields[name].default
        ]
        if given and not self._asked_for_default:
            self.say_once(
                f"{self.label} brings its own optimizer: {', '.join(given)} of the "
                "Trainer's arguments, which are for another, have no effect"
            )

    def held_out(self, index: int) -> list[MicroBatch]:
        """See `Run.held_out`; as many rows as an optimizer step takes, in as many micro-batches."""
        args = self._trainer.args
        dataset, rows = self._held_out_source()
        size, parts = args.per_device_train_batch_size, args.gradient_accumulation_steps
        count = size * parts * args.world_size
        taken = draw_rows(self, rows, index * count, count, "held-out")
        starts = range(args.process_index * size, count, args.world_size * size)
        batches = [self._collate(dataset, taken[start : start + size]) for start in starts]
        num_items = self._trainer._get_num_items_in_batch(batches, args.device)
        if num_items is not None and not num_items:
            raise TrainingError(nothing_scored(f"held-out batch {index}", batches[0]))
        return [
            MicroBatch(self._trainer._prepare_inputs(batch), None, (num_items, parts), True)
            for batch in batches
        ]

    def train_rows(self) -> int | None:
        """Number of rows of the training set.

        Raises:
            MethodError: The training set has no length.
        """
        dataset = self._trainer.train_dataset
        if dataset is None:
            return None
        if not hasattr(dataset, "__len__"):
            raise MethodError(
                f"{self.label} divides the training rows, and a {type(dataset).__name__} "
                "has no length; load it as a map-style dataset"
            )
        return len(dataset)

    def steps_per_epoch(self) -> int | None:
        """As the Trainer counts: the last step of an epoch may hold fewer micro-batches."""
        rows, args = self.train_rows(), self._trainer.args
        if rows is None:
            return None
        accumulation: int = args.gradient_accumulation_steps
        per_batch: int = self._trainer.get_total_train_batch_size(args) // accumulation
        batches = rows // per_batch if args.dataloader_drop_last else math.ceil(rows / per_batch)
        return max(1, math.ceil(batches / accumulation))

    def _held_out_source(self) -> tuple[Any, Sequence[int]]:
        if self._own_held_out_rows is not None:
            return self._own_held_out_rows, range(len(self._own_held_out_rows))
        return self._trainer.train_dataset, self.procedure.held_out_rows()

    def _collate(self, dataset: Any, rows: list[int]) -> dict[str, Any]:
        trainer = self._trainer
        collator = trainer.data_collator
        if isinstance(dataset, Dataset):
            dataset = trainer._remove_unused_columns(dataset, description="held-out")
        else:
            collator = trainer._get_collator_with_removed_columns(collator, description="held-out")
        batch: dict[str, Any] = collator([dataset[row] for row in rows])
        return batch
