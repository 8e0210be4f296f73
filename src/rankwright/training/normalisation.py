"""Weight micro-batches by their scored targets, over gradient accumulation and processes.

transformers divides a loss by the targets of the whole step if it believes that the model does so
itself (any model that takes `**kwargs`, though many ignore them), and otherwise weights
micro-batches equally. Here the loss of a micro-batch is computed as if it were the whole step on
one process, which makes it the mean over its own targets in both cases. It is then weighted by the
number of targets.
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
class LossShare:
    """How the loss of a micro-batch becomes its share of the step's loss.

    Attributes:
        targets: Number of scored targets; None if micro-batches are weighted equally.
        divisor: The `num_items_in_batch` to pass to the Trainer's loss.
        of_loss: Turns the loss that the Trainer computes into the share of the step's loss.
        of_penalty: Does the same for a penalty on the outputs.
        single_step: Context in which the Trainer computes the loss.
        divided_later: Number by which `Trainer.training_step` divides the result.
    """

    targets: Tensor | None
    divisor: Any
    of_loss: Callable[[Tensor], Tensor]
    of_penalty: Callable[[Tensor], Tensor]
    single_step: contextlib.AbstractContextManager[None]
    divided_later: int = 1


class Normalisation:
    """Weights the micro-batches of a trainer's steps.

    Trainers that normalise their loss themselves or generate their batches are left unchanged.

    Args:
        trainer: The trainer, constructed but not yet training.

    Attributes:
        by_targets: Whether micro-batches of the current step are weighted by their targets.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._declared = trainer.loss_is_scaled_for_ga
        self._left = self._declared is True or generates(trainer)
        self.by_targets = False

    def start_step(self, batches: list[Any]) -> None:
        """Decide how to weight the micro-batches of a step; raw rows cannot be counted."""
        self.by_targets = not self._left and all(isinstance(b, Mapping) for b in batches)
        # `compute_loss` ends with `LossShare.of_loss`, so its result is scaled already
        self._trainer.loss_is_scaled_for_ga = True if self.by_targets else self._declared

    def count_targets(self, inputs: dict[str, Any]) -> Tensor:
        """Return the number of scored targets of a micro-batch; 0-dim, int64."""
        trainer = self._trainer
        if trainer.label_smoother is None:
            return count_targets(trainer.model, inputs)
        # The smoother shifts the labels for exactly these classes.
        shifts = type(trainer.model.get_base_model()).__name__ in _CAUSAL
        return count_targets(trainer.model, inputs, shifts=shifts)

    def count_step_targets(self, batches: list[dict[str, Any]], device: torch.device) -> Tensor:
        """Return the number of targets of a step, on all processes unless the arguments forbid it.

        Returns:
            0-dim, on `device`: 0 if no process has a target, else at least 1.
        """
        trainer = self._trainer
        counts = [self.count_targets(inputs).to(device) for inputs in batches]
        own = torch.stack(counts).sum() if counts else torch.zeros((), device=device)
        total = trainer.accelerator.gather(own).sum() if trainer.args.world_size > 1 else own
        if not trainer.args.average_tokens_across_devices:
            return torch.where(total > 0, own.clamp(min=1), 0)
        copies = trainer.get_tp_size() * trainer.get_cp_size() * trainer.get_sp_size()
        return total / copies if copies > 1 else total

    def share(self, inputs: dict[str, Any], of_step: Any) -> LossShare:
        """Return how to weight a micro-batch.

        Args:
            inputs: The micro-batch.
            of_step: Result of `count_step_targets` for its step, or the Trainer's own count; None
                if unknown.
        """
        if not self.by_targets or of_step is None:
            return self._share_of_the_trainer(of_step)
        trainer, targets = self._trainer, self.count_targets(inputs)
        averaged = trainer.args.average_tokens_across_devices
        processes = trainer.accelerator.num_processes // trainer.get_tp_size() if averaged else 1
        weighed = partial(weigh, targets=targets, of_step=of_step / processes)
        return LossShare(
            targets, self._divisor(inputs, targets), weighed, weighed, self._single_step()
        )

    def _share_of_the_trainer(self, of_step: Any) -> LossShare:
        steps = getattr(self._trainer, "current_gradient_accumulation_steps", 1)
        unchanged, mean, plain = _unchanged, partial(_divide, by=steps), contextlib.nullcontext()
        if is_scaled(self._trainer, of_step):
            return LossShare(None, of_step, unchanged, mean, plain)
        return LossShare(None, of_step, unchanged, unchanged, plain, divided_later=steps)

    @contextlib.contextmanager
    def _single_step(self) -> Iterator[None]:
        """Let the Trainer compute the loss as if the micro-batch were a step on one process."""
        trainer = self._trainer
        averaged = trainer.args.average_tokens_across_devices
        steps = getattr(trainer, "current_gradient_accumulation_steps", 1)
        # Otherwise the Trainer multiplies the mean by processes, and TRL divides it by steps.
        trainer.args.average_tokens_across_devices = False
        trainer.current_gradient_accumulation_steps = 1
        try:
            yield
        finally:
            trainer.args.average_tokens_across_devices = averaged
            trainer.current_gradient_accumulation_steps = steps

    def _divisor(self, inputs: dict[str, Any], targets: Tensor) -> Tensor | None:
        """Return the number of targets, at least 1, if the Trainer would pass one; else None."""
        trainer = self._trainer
        asked = trainer.model_accepts_loss_kwargs or trainer.compute_loss_func is not None
        return targets.clamp(min=1) if asked and isinstance(inputs.get("labels"), Tensor) else None


def is_scaled(trainer: Trainer, num_items: Any) -> bool:
    """Return whether a trainer's loss of a micro-batch is already its share of the step's."""
    if trainer.loss_is_scaled_for_ga is not None:
        return bool(trainer.loss_is_scaled_for_ga)
    by_items = trainer.model_accepts_loss_kwargs and num_items is not None
    return by_items or trainer.compute_loss_func is not None


def _unchanged(value: Tensor) -> Tensor:
    return value


def _divide(value: Tensor, by: int) -> Tensor:
    return value / by
