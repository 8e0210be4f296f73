"""`Run`: all that a part may touch while a model is trained.

Behind it stands a `transformers` Trainer (:mod:`rankwright.training`) or the plain loop in
:mod:`rankwright.core.loop`; a part cannot tell which.
"""

from __future__ import annotations

import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from rankwright.core import processes
from rankwright.core.batch import MicroBatch, number_of_rows, take_rows
from rankwright.core.model_call import ModelCall, watch_calls
from rankwright.core.parameter_groups import parameter_groups
from rankwright.core.random_state import random_state, seeded_generator, set_random_state
from rankwright.core.reentrant import has_reentrant_checkpoint
from rankwright.core.schedule import FORWARD, Multiplier, Phase, Shape
from rankwright.errors import MethodError, TrainingError
from rankwright.kernels import parameter_epoch as standing
from rankwright.kernels.shared_input import apart, parted
from rankwright.peft_layers.layer_state import layer_state, load_layer_state
from rankwright.peft_layers.layers import adapted_layers

if TYPE_CHECKING:
    from peft import PeftModel

    from rankwright.core.method import Method

logger = logging.getLogger(__name__)

Loss = TypeVar("Loss")


class Run(ABC):
    """One training run, as its parts see it.

    Attributes:
        model: The `PeftModel`, without any distributed wrapper.
        method: The method; parts are in `slots`, the plugged ones among them.
        adapter_name: Name of the adapter in training.
        layers: Adapted layers by module name.
        optimizer: The optimizer; one object for all parameters.
        step: 0-based index of the optimizer step in hand.
        total_steps: Optimizer steps of the whole run.
        seed: Seed of every draw that the parts make.
        own_held_out: Whether the user brought a second split for `held_out`.
        last_loss: Loss of the last `gradients` call, on this process.
    """

    optimizer: torch.optim.Optimizer
    own_held_out: bool = False
    last_loss: float = float("nan")

    def __init__(self, model: PeftModel, method: Method, *, seed: int) -> None:
        self.model = model
        self.method = method
        self.slots = method.made_of()
        self.adapter_name = "default"
        self.layers = adapted_layers(model)
        self.seed = seed
        self.step = 0
        self.total_steps = 0
        self.micro_batches: list[MicroBatch] = []
        self.metrics: dict[str, float] = {}
        self._fired: set[str] = set()
        self._full_passes = 0.0
        self._forward_passes = 0.0
        self._base_calls = 0  # since the last pass was counted
        self._penalised = False
        self._noted: dict[str, list[tuple[Tensor, float]]] = {}
        self._noted_by = 1.0
        self._said: set[str] = set()
        self._graph_checked = False  # for reentrant checkpoints
        self.procedure = self.slots.procedure.start(self)
        if self.slots.penalty is not None:
            self.slots.penalty.check_run(self)

    # What an engine provides -------------------------------------------------------------------

    @abstractmethod
    def loss(self, batch: MicroBatch) -> Tensor:
        """The share of the step's loss that comes from `batch`; 0-dim.

        It includes penalties on the outputs of a training batch, not those on parameters.
        """

    @abstractmethod
    def held_out(self, index: int) -> list[MicroBatch]:
        """Batch number `index` of the endless shuffled stream of held-out rows."""

    @abstractmethod
    def train_rows(self) -> int | None:
        """Number of training rows; None where the engine does not own the data."""

    @abstractmethod
    def steps_per_epoch(self) -> int | None:
        """Optimizer steps of one pass over the training rows; None where nobody has said."""

    @abstractmethod
    def default_optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimizer that the user asked the engine for; AdamW if nothing was said."""

    def step_optimizer(self) -> None:
        """Let the optimizer act on every parameter that has a gradient now."""
        self.optimizer.step()

    # Gradients ---------------------------------------------------------------------------------

    def gradients(
        self,
        parameters: Sequence[nn.Parameter],
        batches: Sequence[MicroBatch],
        *,
        create_graph: bool = False,
    ) -> list[Tensor]:
        """Gradient of the summed loss of `batches`, averaged over processes.

        `.grad` is left alone, so is the random state; batches that carry a random state are
        evaluated under it. A parameter that the loss does not reach has gradient 0.

        Raises:
            MethodError: Activation checkpoints that are reentrant hide the parameters.
        """
        totals: list[Tensor] | None = None
        losses: list[Tensor] = []
        for batch in batches:
            # around the backward too, which may compute forward again
            with self.replay(batch), standing.still():
                loss = self.loss(batch)
                found = torch.autograd.grad(
                    loss, parameters, create_graph=create_graph, allow_unused=True
                )
            grads = self._filled(found, parameters, loss)
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

    def _filled(
        self, found: Sequence[Tensor | None], parameters: Sequence[nn.Parameter], loss: Tensor
    ) -> list[Tensor]:
        """Gradients with 0 where the loss does not reach a parameter."""
        missing = any(grad is None for grad in found)
        if missing and not self._graph_checked and has_reentrant_checkpoint(loss):
            raise MethodError(
                f"{self.method.label} takes gradients of its own, which reentrant activation "
                "checkpoints do not let through; turn activation checkpointing off, or on with "
                "activation_checkpointing_kwargs={'use_reentrant': False}"
            )
        self._graph_checked |= missing
        pairs = zip(found, parameters, strict=True)
        return [torch.zeros_like(p) if grad is None else grad for grad, p in pairs]

    @contextlib.contextmanager
    def replay(self, batch: MicroBatch) -> Iterator[None]:
        """Evaluate as the step's own forward did, and leave the random state as it was."""
        before = random_state()
        if batch.random_state is not None:
            set_random_state(batch.random_state)
        try:
            with self.procedure.replaying(batch.whole or batch):
                yield
        finally:
            set_random_state(before)

    def some_rows(self, batch: MicroBatch, rows: Tensor) -> MicroBatch:
        """Rows of a batch as a batch of their own, whose loss stands for that of the whole one.

        Its mean over random draws of rows is the loss of `batch`: the sum over their targets is
        divided by the step's targets times the share of the rows.

        Args:
            batch: A whole batch.
            rows: Indices of rows, int64, each once.

        Raises:
            MethodError: The batch cannot be taken apart.
        """
        share = len(rows) / number_of_rows(batch.inputs)
        return replace(batch, inputs=take_rows(batch.inputs, rows), whole=batch, share=share)

    def average(self, tensors: list[Tensor]) -> list[Tensor]:
        """Mean of each tensor over processes, in one collective."""
        return processes.average(tensors)

    @property
    def processes(self) -> int:
        """How many processes train together."""
        return processes.count()

    def gather(self, rows: Tensor) -> Tensor:
        """Rows of all processes, in their order; a gradient flows to this process's own.

        Args:
            rows: (rows of this process, columns).

        Returns:
            (rows of all processes, columns).
        """
        return processes.gather(rows)

    # Penalties on outputs ----------------------------------------------------------------------

    @contextlib.contextmanager
    def penalising(self, on: bool = True) -> Iterator[None]:
        """Whether losses inside are of training batches, to which penalties on outputs belong."""
        before, self._penalised = self._penalised, on
        try:
            yield
        finally:
            self._penalised = before

    def with_penalty(
        self, loss: Callable[[], Loss], labels: Any, targets: Tensor | None = None
    ) -> tuple[Loss, Tensor | None]:
        """Compute the loss of a batch and the penalty on its outputs.

        Args:
            loss: Calls the model.
            labels: The batch's labels, in case the model is not given any.
            targets: Number of targets, the batch's weight in logged means; None for equal weights.

        Returns:
            The result of `loss`, and the penalty, which the engine averages over the step's
            micro-batches weighted by their targets; None without one and outside of `penalising`.
        """
        penalty = self.slots.penalty
        if not self._penalised or penalty is None or not penalty.reads_outputs():
            return loss(), None
        self._noted_by = 1.0 if targets is None else float(targets)
        with watch_calls(self.model, labels) as calls:
            computed = loss()
        terms = [term for c in calls if (term := penalty.of_outputs(self, c)) is not None]
        if not terms:
            return computed, None
        mean = torch.stack(terms).mean()
        self.note("penalty", mean)
        return computed, mean

    def base_logits(self, call: ModelCall, where: Tensor | None = None) -> Tensor:
        """What the frozen base model gives for the same inputs; see `ModelCall.base_logits`."""
        self._base_calls += 1
        return call.base_logits(where)

    def note(self, name: str, value: Tensor) -> None:
        """Log the mean of a quantity over the step's micro-batches, on this process.

        Micro-batches are weighted by their targets, as in the loss.
        """
        self._noted.setdefault(name, []).append((value.detach(), self._noted_by))

    def say_once(self, text: str) -> None:
        """Warn of something in the log, once a run."""
        if text not in self._said:
            self._said.add(text)
            logger.warning(text)

    # Cost --------------------------------------------------------------------------------------

    @property
    def passes(self) -> float:
        """Forward-and-backward passes over one global batch so far; a forward pass is a third."""
        return self._full_passes + self._forward_passes * FORWARD

    def count_pass(self, micro_batches: int = 1, share: float = 1.0) -> None:
        """Count a pass over so many micro-batches, and the base's forwards that it took.

        Args:
            micro_batches: Their number.
            share: Of their rows, on which it was.
        """
        self._full_passes += share
        self._forward_passes += self._base_calls / micro_batches * share
        self._base_calls = 0

    # Parameters and optimizer ------------------------------------------------------------------

    def trainable(self, role: str | None = None) -> dict[str, nn.Parameter]:
        """Parameters that the optimizer holds, by name; of one role if given."""
        return {
            name: parameter
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad and (role is None or self.procedure.role(name) == role)
        }

    def parameter_groups(
        self, lr: float, weight_decay: float, head_lr: float | None = None
    ) -> list[dict[str, Any]]:
        """Optimizer groups: one for each role, split by whether weight decay applies.

        Biases, norms and other vectors (DoRA's magnitudes among them) are not decayed: decay would
        pull a magnitude, hence the layer, towards 0.

        Args:
            lr: Learning rate.
            weight_decay: Decoupled weight decay of the matrices.
            head_lr: Learning rate of modules outside the pretrained body that are trained in full,
                such as a new classification head; None for `lr`.
        """
        return parameter_groups(
            self.trainable(),
            self.model,
            self.procedure,
            lr=lr,
            weight_decay=weight_decay,
            head_lr=head_lr,
        )

    def group_of(self, parameter: nn.Parameter) -> dict[str, Any]:
        """The optimizer group that holds `parameter`."""
        for group in self.optimizer.param_groups:
            if any(parameter is member for member in group["params"]):
                return group
        raise TrainingError("the optimizer does not hold a parameter that the method trains")

    def optimizer_state(self) -> Any:
        """The optimizer's state by parameter object, through any wrapper."""
        return self.optimizer.state

    def reset_optimizer(self, parameters: Sequence[nn.Parameter]) -> None:
        """Forget moments and step counts of `parameters`, as if they had just been created."""
        for parameter in parameters:
            self.optimizer_state().pop(parameter, None)

    def multipliers(self, shape: Shape) -> list[Multiplier]:
        """One learning-rate factor a parameter group, in the optimizer's order."""
        return [
            self.procedure.schedule(group["role"], shape, self.total_steps)
            for group in self.optimizer.param_groups
        ]

    # Phases ------------------------------------------------------------------------------------

    @property
    def phases(self) -> list[Phase]:
        """The phases of the whole run."""
        return self.procedure.phases(self.total_steps)

    def phase_at(self, step: int) -> tuple[int, int]:
        """(number of the phase that holds `step`, steps done in it before `step`)."""
        start = 0
        phases = self.phases
        for number, phase in enumerate(phases):
            if step < start + phase.steps or number == len(phases) - 1:
                return number, step - start
            start += phase.steps
        raise TrainingError("a procedure divided the run into no phase at all")

    # Draws -------------------------------------------------------------------------------------

    def generator(self, *key: object) -> torch.Generator:
        """A CPU generator that is a pure function of (seed, key)."""
        return seeded_generator(self.seed, *key)

    # Events ------------------------------------------------------------------------------------

    def fire(self, event: str) -> None:
        """Pass an event on to the procedure."""
        self._fired.add(event)
        standing.end()
        if event == "before_step":
            self._noted = {}  # of batches evaluated again after the last step
        if event == "after_backward":
            self.count_pass(max(1, len(self.micro_batches)))
            noted, self._noted = self._noted, {}
            self.metrics |= {name: _weighted_mean(values) for name, values in noted.items()}
            self._add_penalty(self.metrics["penalty"] if "penalty" in noted else 0.0)
        getattr(self.procedure, event)()
        if event == "before_step":
            standing.begin()

    def begin(self, total_steps: int) -> None:
        """Start, or go on after `load_state_dict`."""
        self.total_steps = total_steps
        self.procedure.begin()

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """Around steps: one that fails leaves the model as it is between steps."""
        try:
            with standing.within():
                yield
        except BaseException:
            self.model.zero_grad()
            self.procedure.abandon()
            raise

    def finish(self) -> None:
        """End the run.

        Raises:
            TrainingError: Steps were made, but an event that the procedure needs never fired.
        """
        missing = sorted(self.procedure.needs - self._fired)
        if self._fired and missing:
            raise TrainingError(
                f"{self.method.label} needs the events {missing}, which never "
                "fired: the method was not applied. Train through rankwright's Trainer, "
                "with_method(...) or core.loop.Loop"
            )
        self.procedure.end()

    def _add_penalty(self, of_outputs: float) -> None:
        value = None if self.slots.penalty is None else self.slots.penalty(self)
        if value is None:
            return
        self.metrics["penalty"] = of_outputs + float(value.detach())
        if not value.requires_grad:
            return
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        # Not value.backward(): DistributedDataParallel counts every accumulation into .grad.
        grads = torch.autograd.grad(value, parameters, allow_unused=True)
        for parameter, grad in zip(parameters, grads, strict=True):
            if grad is not None:
                parameter.grad = grad if parameter.grad is None else parameter.grad + grad

    # State -------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """State of run, procedure and layers: tensors, numbers, strings, lists, dicts."""
        return {
            "passes": [self._full_passes, self._forward_passes],
            "fired": sorted(self._fired),
            "procedure": self.procedure.state_dict(),
            "layers": layer_state(self.layers, self.adapter_name),
            "apart": parted(self.model),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore; the adapter's weights and the optimizer come after."""
        self._full_passes, self._forward_passes = state["passes"]
        self._fired = set(state["fired"])
        self.load_model_state(state)
        for block in state["apart"]:
            apart(self.model.get_submodule(block))

    def load_model_state(self, state: dict[str, Any]) -> None:
        """Restore procedure and layers; call before loading the adapter's weights.

        The procedure may change the shapes of layers. A factor that is computed from several
        parameters needs those first: from the product alone it could not recover them.
        """
        self.procedure.load_state_dict(state["procedure"])
        load_layer_state(self.layers, self.adapter_name, state.get("layers", {}))


def _weighted_mean(values: list[tuple[Tensor, float]]) -> float:
    """Weighted mean; 0 if all weights are 0."""
    total = sum(weight for _, weight in values)
    return sum(float(value) * weight for value, weight in values if weight) / (total or 1.0)
