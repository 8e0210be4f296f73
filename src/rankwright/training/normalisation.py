"""What a micro-batch counts for in its step: its scored targets, over accumulation and processes.

transformers divides a loss by the targets of the whole step where the model is said to do so itself
(any model with `**kwargs`, many of which do not), and weighs micro-batches alike where it is not.
Here the loss of a micro-batch is computed as though it were the whole step on one process, which
makes it the mean over its own targets in either case, and then weighed by their number.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from rankwright.core.targets import count_targets, weigh
from rankwright.training.trl import generates

if TYPE_CHECKING:
    from transformers import Trainer

_CAUSAL = frozenset(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())


@dataclass(frozen=True)
class Part:
    """How the loss of a micro-batch becomes its part of the step's loss.

    Attributes:
        targets: Its scored targets.
        divisor: What a loss that divides by the targets of a step is told.
        of_loss: The loss that the Trainer computes for it -> its part of the step's.
        of_penalty: The same of what a penalty adds.
        alone: Entered while the Trainer computes the loss.
        divided_later: By what `Trainer.training_step` divides the result.
    """

    targets: Tensor | None
    divisor: Any
    of_loss: Callable[[Tensor], Tensor]
    of_penalty: Callable[[Tensor], Tensor]
    alone: contextlib.AbstractContextManager[None]
    divided_later: int = 1


class Normalisation:
    """The parts that micro-batches have in the steps of a trainer.

    A trainer that normalises its loss itself, and one that makes the batches it trains on out of
    those of its data, is left as it is.

    Args:
        trainer: The trainer, constructed but not yet training.

    Attributes:
        by_targets: Whether the micro-batches of the step in hand count by their targets.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._declared = trainer.loss_is_scaled_for_ga
        self._left = self._declared is True or generates(trainer)
        self.by_targets = False

    def see(self, batches: list[Any]) -> None:
        """Decide how the micro-batches of a step count: not if they are rows yet to be prepared."""
        self.by_targets = not self._left and all(isinstance(b, Mapping) for b in batches)
        # whether `compute_loss`, of which `Part.of_loss` is the end, has scaled the loss
        self._trainer.loss_is_scaled_for_ga = True if self.by_targets else self._declared

    def targets(self, inputs: dict[str, Any]) -> Tensor:
        """Scored targets of a micro-batch."""
        trainer = self._trainer
        if trainer.label_smoother is None:
            return count_targets(trainer.model, inputs)
        # the smoother shifts the labels of these classes and of no others
        shifts = type(trainer.model.get_base_model()).__name__ in _CAUSAL
        return count_targets(trainer.model, inputs, shifts=shifts)

    def of_step(self, batches: list[dict[str, Any]], device: torch.device) -> Tensor:
        """Scored targets of a step, on all processes unless the arguments say otherwise.

        0 if there is none on any process, else at least 1.
        """
        trainer = self._trainer
        counts = [self.targets(inputs).to(device) for inputs in batches]
        own = torch.stack(counts).sum() if counts else torch.zeros((), device=device)
        total = trainer.accelerator.gather(own).sum() if trainer.args.world_size > 1 else own
        if not trainer.args.average_tokens_across_devices:
            return torch.where(total > 0, own.clamp(min=1), 0)
        copies = trainer.get_tp_size() * trainer.get_cp_size() * trainer.get_sp_size()
        return total / copies if copies > 1 else total

    def part(self, inputs: dict[str, Any], of_step: Any) -> Part:
        """The part of a micro-batch.

        Args:
            inputs: The micro-batch.
            of_step: What `of_step` gave for its step, or the Trainer's own count; None if unknown.
        """
        if not self.by_targets or of_step is None:
            return self._as_the_trainer(of_step)
        trainer, targets = self._trainer, self.targets(inputs)
        averaged = trainer.args.average_tokens_across_devices
        processes = trainer.accelerator.num_processes // trainer.get_tp_size() if averaged else 1
        weighed = partial(weigh, targets=targets, of_step=of_step / processes)
        return Part(targets, self._divisor(inputs, targets), weighed, weighed, self._alone())

    def _as_the_trainer(self, of_step: Any) -> Part:
        steps = getattr(self._trainer, "current_gradient_accumulation_steps", 1)
        as_it_is, mean, once = _same, partial(_divided, by=steps), contextlib.nullcontext()
        if is_scaled(self._trainer, of_step):
            return Part(None, of_step, as_it_is, mean, once)
        return Part(None, of_step, as_it_is, as_it_is, once, divided_later=steps)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Let the Trainer compute a loss as though a micro-batch were a step, on one process."""
        trainer = self._trainer
        averaged = trainer.args.average_tokens_across_devices
        steps = getattr(trainer, "current_gradient_accumulation_steps", 1)
        # the Trainer multiplies by processes, TRL divides by steps, what is a mean here
        trainer.args.average_tokens_across_devices = False
        trainer.current_gradient_accumulation_steps = 1
        try:
            yield
        finally:
            trainer.args.average_tokens_across_devices = averaged
            trainer.current_gradient_accumulation_steps = steps

    def _divisor(self, inputs: dict[str, Any], targets: Tensor) -> Tensor | None:
        """The targets, where the Trainer counts them too; at least 1."""
        trainer = self._trainer
        asked = trainer.model_accepts_loss_kwargs or trainer.compute_loss_func is not None
        return targets.clamp(min=1) if asked and isinstance(inputs.get("labels"), Tensor) else None


def is_scaled(trainer: Trainer, num_items: Any) -> bool:
    """Whether a trainer's loss of a micro-batch is its part of the step's loss already."""
    if trainer.loss_is_scaled_for_ga is not None:
        return bool(trainer.loss_is_scaled_for_ga)
    by_items = trainer.model_accepts_loss_kwargs and num_items is not None
    return by_items or trainer.compute_loss_func is not None


def _same(value: Tensor) -> Tensor:
    return value


def _divided(value: Tensor, by: int) -> Tensor:
    return value / by
