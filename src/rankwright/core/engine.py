"""`Engine`: what runs a method. It fires events, adds penalties and keeps the state of a run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from rankwright.core.batch import MicroBatch
from rankwright.core.composite import add_terms
from rankwright.core.method import Method
from rankwright.core.model_call import watch_calls
from rankwright.core.parameter_groups import parameter_groups
from rankwright.core.part_registry import part_name
from rankwright.core.run import Run
from rankwright.core.schedule import Multiplier, Phase, Shape
from rankwright.core.slots import LOWER, UPPER, Penalty
from rankwright.errors import MethodError, TrainingError
from rankwright.kernels import parameter_epoch
from rankwright.kernels.shared_input import restore_ungrouped, ungrouped_blocks
from rankwright.peft_layers.layer_state import layer_state, load_layer_state

if TYPE_CHECKING:
    from peft import PeftModel

Loss = TypeVar("Loss")
State = TypeVar("State")


class Engine(Run):
    """A `Run` with the method that it trains by.

    A subclass provides the batches and calls, for every optimizer step and in this order:
    `fire("before_step")`, the forwards and backwards, `fire("after_backward")`, clipping, the
    optimizer, `fire("after_step")`; all of it inside `attempt()`.

    Attributes:
        method: The method.
        slots: Its parts, plugged ones included.
        procedure: Its procedure, started.
    """

    def __init__(self, model: PeftModel, method: Method, *, seed: int) -> None:
        super().__init__(model, method.label, seed=seed)
        self.method = method
        self.slots = method.made_of()
        self._fired: set[str] = set()
        self._penalising = False
        self.procedure = self.slots.procedure.start(self)
        if self.slots.penalty is not None:
            self.slots.penalty.check_run(self)
            self._check_levels(self.slots.penalty.members())

    # What parts ask ----------------------------------------------------------------------------

    def role(self, name: str) -> str:
        """See `Run.role`."""
        return self.procedure.role(name)

    def find(self, kind: type[State]) -> State | None:
        """See `Run.find`."""
        return next((m for m in self.procedure.members() if isinstance(m, kind)), None)

    def replaying(self, batch: MicroBatch) -> AbstractContextManager[None]:
        """See `Run.replaying`."""
        return self.procedure.replaying(batch)

    @property
    def phases(self) -> list[Phase]:
        """See `Run.phases`."""
        return self.procedure.phases(self.total_steps)

    # Optimizer ---------------------------------------------------------------------------------

    def parameter_groups(
        self, lr: float, weight_decay: float, head_lr: float | None = None
    ) -> list[dict[str, Any]]:
        """Return optimizer groups: one for each role, split by whether weight decay applies.

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

    def multipliers(self, shape: Shape) -> list[Multiplier]:
        """Return the learning-rate factor of each optimizer group, in the optimizer's order."""
        return [
            self.procedure.schedule(group["role"], shape, self.total_steps)
            for group in self.optimizer.param_groups
        ]

    # Penalties on outputs ----------------------------------------------------------------------

    @contextlib.contextmanager
    def penalising(self, on: bool = True) -> Iterator[None]:
        """Mark losses computed inside as losses of training batches, which carry penalties."""
        before, self._penalising = self._penalising, on
        try:
            yield
        finally:
            self._penalising = before

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
        if not self._penalising or penalty is None or not penalty.reads_outputs():
            return loss(), None
        self._means.weight = 1.0 if targets is None else float(targets)
        with watch_calls(self.model, labels) as calls:
            computed = loss()
        terms = [term for c in calls if (term := penalty.of_outputs(self, c)) is not None]
        if not terms:
            return computed, None
        mean = torch.stack(terms).mean()
        self.note("penalty", mean)
        return computed, mean

    def _check_levels(self, penalties: Iterable[Penalty]) -> None:
        """Refuse a penalty of the upper level that no upper level would minimise."""
        for penalty in (each for each in penalties if each.level == UPPER):
            if not self.trainable(UPPER):
                raise MethodError(
                    f"{part_name(penalty)} is a penalty of the upper level, and no parameter has "
                    "that role; use it with the procedure bilevel or gate_search"
                )
            if penalty.reads_outputs():
                raise MethodError(
                    f"{part_name(penalty)} is a penalty of the upper level and reads outputs, "
                    "which are those of training batches; give it the level lower"
                )

    def penalty(self, level: str = LOWER) -> Tensor | None:
        """See `Run.penalty`."""
        penalties = () if self.slots.penalty is None else self.slots.penalty.members()
        return add_terms(p(self) for p in penalties if p.level == level)

    def _add_penalty(self, of_outputs: float) -> None:
        """Add the gradient of the penalties on parameters to `.grad`, and log all penalties."""
        value = self.penalty()
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

    # Events ------------------------------------------------------------------------------------

    def begin(self, total_steps: int) -> None:
        """Start the run, or go on after `load_state_dict`."""
        self.total_steps = total_steps
        self.procedure.begin()

    def fire(self, event: str) -> None:
        """Pass an event on to the procedure."""
        self._fired.add(event)
        parameter_epoch.end_epoch()
        if event == "before_step":
            self._means.take()  # of batches that were evaluated again after the last step
        if event == "after_backward":
            self.count_pass(max(1, len(self.micro_batches)))
            means = self._means.take()
            self.metrics.pop("penalty", None)  # of the last step; this one may have none
            self.metrics |= means
            self._add_penalty(means.get("penalty", 0.0))
        getattr(self.procedure, event)()
        if event == "before_step":
            parameter_epoch.begin_epoch()

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """Wrap steps: one that fails leaves the model as it is between steps."""
        try:
            with parameter_epoch.end_epoch_on_exit():
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
                f"{self.label} needs the events {missing}, which never "
                "fired: the method was not applied. Train through rankwright's Trainer, "
                "with_method(...) or core.loop.Loop"
            )
        self.procedure.end()

    # State -------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the state of run, procedure and layers: tensors, numbers, strings, containers."""
        return {
            "passes": [self._full_passes, self._forward_passes],
            "fired": sorted(self._fired),
            "procedure": self.procedure.state_dict(),
            "layers": layer_state(self.layers, self.adapter_name),
            "apart": ungrouped_blocks(self.model),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state; load the adapter's weights and the optimizer afterwards."""
        self._full_passes, self._forward_passes = state["passes"]
        self._fired = set(state["fired"])
        self.load_model_state(state)
        for block in state["apart"]:
            restore_ungrouped(self.model.get_submodule(block))

    def load_model_state(self, state: dict[str, Any]) -> None:
        """Restore procedure and layers; call before loading the adapter's weights.

        The procedure may change the shapes of layers. A factor that is computed from several
        parameters needs those first: it cannot recover them from the product alone.
        """
        self.procedure.load_state_dict(state["procedure"])
        load_layer_state(self.layers, self.adapter_name, state.get("layers", {}))
