"""`Loop`: an engine for training loops written with PyTorch or accelerate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rankwright.core.batch import MicroBatch
from rankwright.core.engine import Engine
from rankwright.core.parameter_groups import clipping
from rankwright.core.random_state import random_state, set_random_state
from rankwright.core.schedule import Multiplier, Shape
from rankwright.core.targets import count_targets, nothing_scored, weigh
from rankwright.errors import MethodError, TrainingError

if TYPE_CHECKING:
    from rankwright.core.method import Method

LossFunction = Callable[[nn.Module, Any], Tensor]
TargetCount = Callable[[nn.Module, Any], Tensor | int]


def model_loss(model: nn.Module, batch: Any) -> Tensor:
    """Return the loss that a transformers model computes from a batch with labels."""
    loss: Tensor = model(**batch).loss
    return loss


def linear_schedule(steps: int) -> Multiplier:
    """Return a linear decay to 0 over `steps` optimizer steps."""
    return lambda step: max(0.0, 1.0 - step / steps)


def constant_schedule(steps: int) -> Multiplier:
    """Return a constant factor of 1."""
    del steps
    return lambda _step: 1.0


class Loop(Engine):
    """Train with any method in a loop of your own.

    Example:
        >>> run = Loop(method.apply(model), method, total_steps=100, lr=2e-4)  # doctest: +SKIP
        >>> for batch in batches:  # doctest: +SKIP
        ...     loss = run.train_step(batch)
        >>> run.finish()  # doctest: +SKIP

    Args:
        model: The model that `method.apply` returned; may be wrapped by DistributedDataParallel.
        method: The method.
        total_steps: Optimizer steps of the whole run.
        optimizer: Builds an optimizer from parameter groups; AdamW by default. A method with an
            optimizer of its own may build on it (LoRA+) or replace it (LoRA-Pro).
        lr: Learning rate.
        weight_decay: Decoupled weight decay of the matrices.
        schedule: Maps the number of steps to the learning-rate factor as a function of the step.
        loss: Computes the loss from (model, batch): a scalar, a mean over the batch's targets.
        targets: Counts the targets of (model, batch), by which the micro-batches of a step are
            weighted on all processes. The default counts labels that are not -100, or rows if
            there are no labels.
        held_out: Returns the k-th held-out batch, for methods that learn from a second split; must
            be a pure function of k.
        max_grad_norm: Clip the global gradient norm to this; None for no clipping. It has no
            effect, and a warning is logged, if the optimizer owns clipping.
        backward: Called on the loss in the place of `Tensor.backward`; `accelerator.backward`, for
            example.
        steps_per_epoch: Optimizer steps of one pass over your data, for methods that count in
            epochs.
        seed: Seed of every draw that the method makes.

    Raises:
        MethodError: The method learns from a second split, and `held_out` is not given.
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        *,
        total_steps: int,
        optimizer: Callable[[list[dict[str, Any]]], torch.optim.Optimizer] = torch.optim.AdamW,
        lr: float = 2e-4,
        weight_decay: float = 0.0,
        schedule: Shape = linear_schedule,
        loss: LossFunction = model_loss,
        targets: TargetCount = count_targets,
        held_out: Callable[[int], Any] | None = None,
        max_grad_norm: float | None = None,
        backward: Callable[[Tensor], Any] = Tensor.backward,
        steps_per_epoch: int | None = None,
        seed: int = 0,
    ) -> None:
        self._wrapped = model
        self._loss = loss
        self._targets = targets
        self._held_out = held_out
        self._backward = backward
        self._steps_per_epoch = steps_per_epoch
        self._build_optimizer = optimizer
        bare: Any = model.module if isinstance(model, DistributedDataParallel) else model
        super().__init__(bare, method, seed=seed)
        given = held_out is not None or type(self).held_out is not Loop.held_out
        if self.procedure.asks_held_out and not given:
            raise MethodError(
                f"{method.label} learns from a second split: pass held_out=, a function that "
                "gives the k-th held-out batch"
            )
        self.total_steps = total_steps
        groups, own = self.parameter_groups(lr, weight_decay), self.slots.optimizer
        self.optimizer = self.default_optimizer(groups) if own is None else own.build(self, groups)
        self._max_grad_norm = clipping(self.optimizer, max_grad_norm)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, self.multipliers(schedule)
        )
        self._begun = False

    def loss(self, batch: MicroBatch) -> Tensor:
        """See `Run.loss`."""
        with self.penalising(not batch.held_out):
            loss, penalty = self._loss_of(self.model, batch)
        return loss if penalty is None else loss + penalty

    def some_rows(self, batch: MicroBatch, rows: Tensor) -> MicroBatch:
        """See `Run.some_rows`."""
        part = super().some_rows(batch, rows)
        part.scale = batch.scale * part.share
        return part

    def held_out(self, index: int) -> list[MicroBatch]:
        """See `Run.held_out`."""
        if self._held_out is None:
            raise TrainingError(f"{self.label} was built without held_out=")
        inputs = self._held_out(index)
        return [MicroBatch(inputs, None, self._of_step([inputs], f"held-out batch {index}"), True)]

    def default_optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """See `Run.default_optimizer`."""
        return self._build_optimizer(groups)

    def train_rows(self) -> int | None:
        """See `Run.train_rows`; the loop does not own the data."""
        return None

    def steps_per_epoch(self) -> int | None:
        """See `Run.steps_per_epoch`."""
        return self._steps_per_epoch

    def train_step(self, *batches: Any) -> float:
        """Make one optimizer step on one batch, or on several micro-batches.

        Micro-batches give the same step as one batch with all their rows.

        Returns:
            The mean loss, without penalties, which are in `metrics`.

        Raises:
            TrainingError: The loss is not finite, the step has no targets, or the run is over.
        """
        if self.step >= self.total_steps:
            raise TrainingError(f"all {self.total_steps} steps of this run are done")
        if not self._begun:
            self._begun = True
            self.begin(self.total_steps)
        self._wrapped.train()
        with self.attempt():
            self.fire("before_step")
            total = self._forward_backward(batches)
            self.fire("after_backward")
            if self._max_grad_norm is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), self._max_grad_norm)
            self.optimizer.step()
            self.fire("after_step")
        self.scheduler.step()
        self.optimizer.zero_grad()
        self.step += 1
        return total

    def _forward_backward(self, batches: tuple[Any, ...]) -> float:
        self.micro_batches = []
        of_step = self._of_step(batches, f"step {self.step}")
        total = 0.0
        for inputs in batches:
            state = random_state() if self.procedure.replays else None
            self.micro_batches.append(MicroBatch(inputs, state, of_step))
            with self.penalising():
                loss, penalty = self._loss_of(self._wrapped, self.micro_batches[-1])
            total += float(loss.detach())
            loss = loss if penalty is None else loss + penalty
            value = float(loss.detach())
            if not math.isfinite(value):
                raise TrainingError(f"the loss at step {self.step} is {value}")
            self._backward(loss)
        return total

    def _of_step(self, batches: Sequence[Any], where: str) -> Tensor:
        """Mean over processes of the number of targets; 0-dim, float32.

        Raises:
            TrainingError: There are none.
        """
        device = next(self.model.parameters()).device  # required by the collective
        counts = [torch.as_tensor(self._targets(self.model, inputs)) for inputs in batches]
        own = torch.stack([count.to(device) for count in counts]).sum()
        (mean,) = self.average([own.float()])
        if not mean:
            raise TrainingError(nothing_scored(where, batches[0]))
        return mean

    def _loss_of(self, model: nn.Module, batch: MicroBatch) -> tuple[Tensor, Tensor | None]:
        """Return a batch's share of the step's loss, and the share of penalties on its outputs."""
        inputs = batch.inputs
        labels = inputs.get("labels") if isinstance(inputs, Mapping) else None
        targets = torch.as_tensor(self._targets(self.model, inputs))
        of_step = targets if batch.scale is None else batch.scale
        loss, penalty = self.with_penalty(lambda: self._loss(model, inputs), labels, targets)
        share = None if penalty is None else weigh(penalty, targets, of_step)
        return weigh(loss, targets, of_step), share

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the whole run: method, adapter, optimizer, schedule, position."""
        return {
            **super().state_dict(),
            "step": self.step,
            "adapter": get_peft_model_state_dict(self.model),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "random_state": random_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a run; the same batches then give the same bits as without the interruption."""
        super().load_state_dict(state)
        self.step = state["step"]
        set_peft_model_state_dict(self.model, state["adapter"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        set_random_state(state["random_state"])
