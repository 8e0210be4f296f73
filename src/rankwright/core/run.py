"""`Run`: the part of a training run that methods may touch.

Parts see losses, gradients, batches, the optimizer and seeded draws through this interface only.
Behind it is an engine (:mod:`rankwright.core.engine`): the plain loop in
:mod:`rankwright.core.loop`, or a `transformers` Trainer (:mod:`rankwright.training`). A part cannot
tell which.
"""

from __future__ import annotations

import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from rankwright.core import processes
from rankwright.core.batch import MicroBatch, number_of_rows, take_rows
from rankwright.core.model_call import ModelCall
from rankwright.core.random_state import random_state, seeded_generator, set_random_state
from rankwright.core.reentrant import has_reentrant_checkpoint
from rankwright.core.schedule import FORWARD, Phase
from rankwright.core.step_means import StepMeans
from rankwright.errors import MethodError, TrainingError
from rankwright.kernels import parameter_epoch
from rankwright.peft_layers.layers import adapted_layers

if TYPE_CHECKING:
    from peft import PeftModel

logger = logging.getLogger(__name__)

State = TypeVar("State")


class Run(ABC):
    """One training run, as the parts of its method see it.

    Attributes:
        model: The `PeftModel`, without any distributed wrapper.
        label: Name of the method and of the plugged parts, for messages.
        adapter_name: Name of the adapter being trained.
        layers: Adapted layers by module name.
        optimizer: The optimizer of all trained parameters.
        step: 0-based index of the current optimizer step.
        total_steps: Number of optimizer steps of the whole run.
        seed: Seed of all draws that parts make.
        micro_batches: Batches of the current step, in the order of their forwards.
        metrics: Quantities to log with the current step, by name.
        own_held_out: Whether the user passed a second data split for `held_out`.
        last_loss: Loss of the last `gradients` call, on this process.
    """

    optimizer: torch.optim.Optimizer
    own_held_out: bool = False
    last_loss: float = float("nan")

    def __init__(self, model: PeftModel, label: str, *, seed: int) -> None:
        self.model = model
        self.label = label
        self.adapter_name = "default"
        self.layers = adapted_layers(model)
        self.seed = seed
        self.step = 0
        self.total_steps = 0
        self.micro_batches: list[MicroBatch] = []
        self.metrics: dict[str, float] = {}
        self._means = StepMeans()
        self._full_passes = 0.0
        self._forward_passes = 0.0
        self._base_calls = 0  # since the last count_pass
        self._warned: set[str] = set()
        self._graph_checked = False  # for reentrant checkpoints

    # Batches and losses ------------------------------------------------------------------------

    @abstractmethod
    def loss(self, batch: MicroBatch) -> Tensor:
        """Return the share of the step's loss that comes from `batch`; 0-dim.

        It includes penalties on the outputs of a training batch, not penalties on parameters.
        """

    @abstractmethod
    def held_out(self, index: int) -> list[MicroBatch]:
        """Return batch number `index` of the endless shuffled stream of held-out rows."""

    @abstractmethod
    def train_rows(self) -> int | None:
        """Return the number of training rows; None if the engine does not own the data."""

    @abstractmethod
    def steps_per_epoch(self) -> int | None:
        """Return the optimizer steps of one pass over the training rows; None if unknown."""

    @abstractmethod
    def penalty(self, level: str = "lower") -> Tensor | None:
        """Return the sum of the penalties on parameters of one level, 0-dim; None for none."""

    def some_rows(self, batch: MicroBatch, rows: Tensor) -> MicroBatch:
        """Take rows of a batch as a batch whose loss estimates the loss of the whole one.

        The sum over their targets is divided by the step's targets times the share of the rows, so
        the mean over random draws of rows is the loss of `batch`.

        Args:
            batch: A whole batch.
            rows: Indices of rows, int64, without repetition.

        Raises:
            MethodError: The batch cannot be split into rows.
        """
        share = len(rows) / number_of_rows(batch.inputs)
        return replace(batch, inputs=take_rows(batch.inputs, rows), whole=batch, share=share)

    def base_logits(self, call: ModelCall, where: Tensor | None = None) -> Tensor:
        """Return the logits of the frozen base model for the same inputs.

        See `ModelCall.base_logits`; the forward pass is counted in `passes`.
        """
        self._base_calls += 1
        return call.base_logits(where)

    # Gradients ---------------------------------------------------------------------------------

    def gradients(
        self,
        parameters: Sequence[nn.Parameter],
        batches: Sequence[MicroBatch],
        *,
        create_graph: bool = False,
    ) -> list[Tensor]:
        """Return the gradient of the summed loss of `batches`, averaged over processes.

        `.grad` and the random state are left alone; batches that carry a random state are
        evaluated under it. A parameter that the loss does not reach has gradient 0.

        Raises:
            MethodError: Reentrant activation checkpoints hide the parameters.
            TrainingError: `batches` is empty.
        """
        totals: list[Tensor] | None = None
        losses: list[Tensor] = []
        for batch in batches:
            # the backward is inside, too: activation checkpoints recompute forwards there
            with self.replay(batch), parameter_epoch.fixed_parameters():
                loss = self.loss(batch)
                found = torch.autograd.grad(
                    loss, parameters, create_graph=create_graph, allow_unused=True
                )
            grads = self._fill_missing(found, parameters, loss)
            losses.append(loss.detach())
            totals = (
                list(grads)
                if totals is None
                else [total + grad for total, grad in zip(totals, grads, strict=True)]
            )
        if totals is None:
            raise TrainingError("gradients() was given no batch; pass at least one MicroBatch")
        self.count_pass(len(batches), sum(batch.share for batch in batches) / len(batches))
        self.last_loss = float(torch.stack(losses).sum())
        return totals if create_graph else self.average(totals)

    def _fill_missing(
        self, found: Sequence[Tensor | None], parameters: Sequence[nn.Parameter], loss: Tensor
    ) -> list[Tensor]:
        """Replace missing gradients by 0."""
        missing = any(grad is None for grad in found)
        if missing and not self._graph_checked and has_reentrant_checkpoint(loss):
            raise MethodError(
                f"{self.label} takes gradients of its own, which reentrant activation "
                "checkpoints do not let through; turn activation checkpointing off, or on with "
                "activation_checkpointing_kwargs={'use_reentrant': False}"
            )
        self._graph_checked |= missing
        pairs = zip(found, parameters, strict=True)
        return [torch.zeros_like(p) if grad is None else grad for grad, p in pairs]

    @contextlib.contextmanager
    def replay(self, batch: MicroBatch) -> Iterator[None]:
        """Evaluate a batch as the step's own forward did; restore the random state afterwards."""
        before = random_state()
        if batch.random_state is not None:
            set_random_state(batch.random_state)
        try:
            with self.replaying(batch.whole or batch):
                yield
        finally:
            set_random_state(before)

    @abstractmethod
    def replaying(self, batch: MicroBatch) -> AbstractContextManager[None]:
        """Return the procedure's context for evaluating `batch` again."""

    # Processes ---------------------------------------------------------------------------------

    def average(self, tensors: list[Tensor]) -> list[Tensor]:
        """Return the mean of each tensor over processes, in one collective."""
        return processes.average(tensors)

    @property
    def processes(self) -> int:
        """Number of processes that train together."""
        return processes.count()

    def gather(self, rows: Tensor) -> Tensor:
        """Return the rows of all processes in rank order, differentiable in this process's own.

        Args:
            rows: (rows of this process, columns).

        Returns:
            (rows of all processes, columns).
        """
        return processes.gather(rows)

    # Parameters and optimizer ------------------------------------------------------------------

    @abstractmethod
    def role(self, name: str) -> str:
        """Return the role, which decides the optimizer group, of the parameter called `name`."""

    def trainable(self, role: str | None = None) -> dict[str, nn.Parameter]:
        """Return the trained parameters by name, of one role if given."""
        return {
            name: parameter
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad and (role is None or self.role(name) == role)
        }

    @abstractmethod
    def default_optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Build the optimizer that the user asked the engine for; AdamW by default."""

    def step_optimizer(self) -> None:
        """Let the optimizer step every parameter that has a gradient now."""
        self.optimizer.step()

    def group_of(self, parameter: nn.Parameter) -> dict[str, Any]:
        """Return the optimizer group that holds `parameter`.

        Raises:
            TrainingError: No group holds it.
        """
        for group in self.optimizer.param_groups:
            if any(parameter is member for member in group["params"]):
                return group
        raise TrainingError("the optimizer does not hold a parameter that the method trains")

    def optimizer_state(self) -> Any:
        """Return the optimizer's state by parameter object, through any wrapper."""
        return self.optimizer.state

    def reset_optimizer(self, parameters: Sequence[nn.Parameter]) -> None:
        """Drop moments and step counts of `parameters`, as if they had just been created."""
        for parameter in parameters:
            self.optimizer_state().pop(parameter, None)

    # Phases and procedures ---------------------------------------------------------------------

    @property
    @abstractmethod
    def phases(self) -> list[Phase]:
        """Phases of the whole run."""

    def phase_at(self, step: int) -> tuple[int, int]:
        """Return the number of the phase that holds `step`, and the steps done in it before.

        Raises:
            TrainingError: There is no phase.
        """
        start = 0
        phases = self.phases
        for number, phase in enumerate(phases):
            if step < start + phase.steps or number == len(phases) - 1:
                return number, step - start
            start += phase.steps
        raise TrainingError("a procedure divided the run into no phase at all")

    @abstractmethod
    def find(self, kind: type[State]) -> State | None:
        """Return the running procedure of class `kind`; None if the method has none."""

    # Draws -------------------------------------------------------------------------------------

    def generator(self, *key: object) -> torch.Generator:
        """Return a CPU generator whose state is a pure function of (seed, key)."""
        return seeded_generator(self.seed, *key)

    # Logs and cost -----------------------------------------------------------------------------

    def note(self, name: str, value: Tensor) -> None:
        """Log the mean of a quantity over the step's micro-batches, on this process.

        Micro-batches are weighted by their numbers of targets, as in the loss.
        """
        self._means.add(name, value)

    def say_once(self, text: str) -> None:
        """Log a warning, unless this run has logged the same text before."""
        if text not in self._warned:
            self._warned.add(text)
            logger.warning(text)

    @property
    def passes(self) -> float:
        """Forward-and-backward passes over one global batch so far; a forward pass is a third."""
        return self._full_passes + self._forward_passes * FORWARD

    def count_pass(self, micro_batches: int = 1, share: float = 1.0) -> None:
        """Count a pass over the batch, and the base model's forwards that belong to it.

        Args:
            micro_batches: Number of micro-batches.
            share: Share of their rows that the pass was over.
        """
        self._full_passes += share
        self._forward_passes += self._base_calls / micro_batches * share
        self._base_calls = 0
