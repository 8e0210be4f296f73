"""The slots of a method, and the base class of the parts that fill each of them.

A part knows neither a method nor a trainer. During training it touches a `Run`
(:mod:`rankwright.core.run`) and nothing else. Parts are frozen dataclasses whose fields are
hyperparameters; state that lives through a run belongs to the object that `Procedure.start`
returns. A part with a name (`part_registry.register_part`) can be plugged onto any method. A field
that cannot be written in a configuration file, such as a function, is declared with `repr=False`.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

from rankwright.core.export import Export
from rankwright.core.part_fields import TakesFields, build_from_fields
from rankwright.core.schedule import FORWARD, Multiplier, Phase, Shape

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from torch import Tensor

    from rankwright.core.batch import MicroBatch
    from rankwright.core.model_call import ModelCall
    from rankwright.core.run import Run

LOWER, UPPER = "lower", "upper"
"""Roles of the parameters of a bilevel procedure, and levels of the penalties on them."""

SLOT_NAMES = ("layer", "init", "optimizer", "penalty", "procedure")
"""Slots that take plugged parts, in the order in which a method is put together."""


class Part:
    """Base class of everything that fills a slot."""

    experts: ClassVar[bool] = False
    """Whether the part supports adapted parameters outside linear layers (experts)."""

    @classmethod
    def from_fields(
        cls, method: TakesFields, *, without: Iterable[str] = (), **others: Any
    ) -> Self:
        """Build the part from the fields that a method declares with `part_fields.from_part`.

        Args:
            method: The method.
            without: Fields that keep their defaults, as do those that only Python can set
                (`repr=False`).
            others: Values of fields that the method does not have.

        Raises:
            FieldError: A value is refused; named after the method's field.
            MethodError: A field of the part is given nowhere or twice, or does not exist.
        """
        return build_from_fields(cls, method, without, others)

    def layer(self) -> Layer | None:
        """Return the layer part that this part needs; None if it works on any.

        It replaces PEFT's plain layer where a method has that one.
        """
        return None

    def members(self) -> tuple[Part, ...]:
        """Return the parts that this one combines, or itself; none for the default of a slot."""
        return () if type(self) in (Layer, Procedure) else (self,)

    def check(self, slots: Slots) -> None:
        """Refuse parts that this one cannot work with.

        Args:
            slots: All slots of the method, filled.

        Raises:
            MethodError: Another slot holds such a part.
        """
        del slots


@dataclass(frozen=True)
class Layer(Part):
    """Computation of an adapted layer, and its PEFT options; PEFT's LoRA by default.

    Checkpoints of a run store the parameters and buffers that `install` adds to the layers
    (:mod:`rankwright.peft_layers.layer_state`); the part does not have to save them.
    """

    @property
    def exact_gradient(self) -> bool:
        """Whether autograd differentiates everything that the layer computes.

        Finite differences do; a hypergradient that mixes both has to know.
        """
        return True

    def export(self) -> Export | None:
        """Return the export of adapters with these layers, for methods that it is plugged onto.

        None for the method's own.
        """
        return None

    def peft_options(self) -> dict[str, Any]:
        """Return extra arguments of `peft.LoraConfig`."""
        return {}

    def install(self, model: PeftModel, adapter_name: str) -> None:
        """Change the newly injected layers in place; PEFT's own are used as they are by default."""


class Init(Part, ABC):
    """Initial values of the factors."""

    @abstractmethod
    def initialise(self, model: PeftModel, adapter_name: str) -> None:
        """Write the factors of every adapted layer; the global random state is already seeded."""


class OptimizerPart(Part, ABC):
    """Optimizer of the trained parameters.

    If the optimizer has a true attribute `owns_clipping`, the engine does not clip its gradients
    and logs that.
    """

    sharded: ClassVar[bool] = False
    """Whether it can step the shards of parameters that DeepSpeed and FSDP leave to a process."""

    elementwise: ClassVar[bool] = True
    """Whether the update of an entry depends on the gradients of that entry alone.

    A hypergradient needs to know.
    """

    @abstractmethod
    def build(self, run: Run, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Build the optimizer.

        Args:
            run: The run, with the adapted layers by name.
            groups: Parameter groups with `params`, `role`, `lr` and `weight_decay`.
        """


class Penalty(Part):
    """Term added to the loss: of the parameters, of the outputs of a batch, or of both.

    In a bilevel run a penalty belongs to the loss of the lower level, or to that of the upper one.
    """

    @property
    def level(self) -> str:
        """Level of a bilevel procedure, "lower" or "upper", to whose loss it is added."""
        return LOWER

    def members(self) -> tuple[Penalty, ...]:
        """See `Part.members`."""
        return (self,)

    def check_run(self, run: Run) -> None:
        """Refuse a run that it does not fit; called when the run is built.

        Raises:
            MethodError: The model or the procedure lacks something that the penalty is computed
                from.
        """
        del run

    def __call__(self, run: Run) -> Tensor | None:
        """Return the penalty on the current parameters, 0-dim, weight included; None for none.

        Called once per optimizer step.
        """
        del run
        return None

    def of_outputs(self, run: Run, call: ModelCall) -> Tensor | None:
        """Return the penalty on the outputs of a batch, 0-dim, weight included; None for none.

        Called for every training batch; the engine adds it to the loss. A step takes the mean over
        its micro-batches on all processes, weighted by their numbers of targets, as for the loss.
        """
        del run, call
        return None

    def reads_outputs(self) -> bool:
        """Return whether `of_outputs` has to be called."""
        return type(self).of_outputs is not Penalty.of_outputs

    def forwards(self) -> int:
        """Return the largest number of forward passes over a batch that `of_outputs` makes."""
        return 0


@dataclass(frozen=True)
class Procedure(Part):
    """Actions around the optimizer steps; none by default.

    A procedure is a frozen dataclass of hyperparameters; `start` returns the object with the state.
    """

    def passes(self, total_steps: int) -> float:
        """Return the largest number of forward-and-backward passes of `total_steps` steps."""
        return float(total_steps)

    def start(self, run: Run) -> ProcedureState:
        """Start the procedure; called when the run is built, before the optimizer is.

        Raises:
            MethodError: The run lacks something that the procedure needs, such as held-out rows.
        """
        return ProcedureState(run)


class ProcedureState:
    """State of a procedure in one run, and its reactions to events.

    Events come in the order begin, (before_step, after_backward, after_step)*, end. `run.step` is
    the 0-based index of the current step throughout the three events of a step.
    """

    needs: frozenset[str] = frozenset()
    """Events without which the procedure has no effect; checked when training ends."""

    replays: bool = False
    """Whether it evaluates the step's batches again, under the same random state."""

    asks_held_out: bool = False
    """Whether it learns from `run.held_out`."""

    restricts_rows: bool = False
    """Whether some phase draws from only a part of the training rows (`rows`)."""

    def __init__(self, run: Run) -> None:
        self.run = run

    # Asked before the first step ---------------------------------------------------------------

    def phases(self, total_steps: int) -> list[Phase]:
        """Divide `total_steps` optimizer steps into phases."""
        return [Phase("train", total_steps)]

    def rows(self, phase: int) -> Sequence[int] | None:
        """Return the training rows that phase number `phase` draws from; None for all.

        Called when the first batch of the phase is fetched, which may be one batch ahead.
        """
        del phase
        return None

    def held_out_rows(self) -> Sequence[int]:
        """Return the training rows set aside for `run.held_out`; no phase trains on them."""
        return ()

    def role(self, name: str) -> str:
        """Return the role of the parameter called `name`; each role has its optimizer groups."""
        del name
        return LOWER

    def group_options(self, role: str) -> dict[str, Any]:
        """Return options of a role's groups that differ from the user's (`lr`, ...)."""
        del role
        return {}

    def schedule(self, role: str, shape: Shape, total_steps: int) -> Multiplier:
        """Return the learning-rate factor of a role's groups as a function of the step."""
        del role
        return shape(total_steps)

    # Events ------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Run before the first step, in a resumed run after `load_state_dict`."""

    def before_step(self) -> None:
        """Run before the first micro-batch of a step."""

    def after_backward(self) -> None:
        """Run when `.grad` has the step's gradients: averaged, with penalties, not clipped."""

    def after_step(self) -> None:
        """Run after the optimizer's step; gradients remain, the schedule has not advanced."""

    def end(self) -> None:
        """Run after the last step."""

    def abandon(self) -> None:
        """Undo what a failed step left on the model; the step may have failed at any point."""

    @contextlib.contextmanager
    def replaying(self, batch: MicroBatch) -> Iterator[None]:
        """Wrap every evaluation of `batch` other than the step's own forward.

        A procedure that changes what the step's forward computes makes the same change here, so
        that the loss of a training batch is one function throughout the step.
        """
        del batch
        yield

    # State -------------------------------------------------------------------------------------

    def members(self) -> Iterator[ProcedureState]:
        """Yield this procedure, or the procedures that it combines."""
        yield self

    def state_dict(self) -> dict[str, Any]:
        """Return the state to resume from: tensors, numbers, strings, lists, dicts."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state.

        Called before the adapter's weights are loaded and before the optimizer is built.
        """
        del state


@dataclass(frozen=True, kw_only=True)
class Slots:
    """The parts of a method; the defaults are plain LoRA with AdamW.

    Attributes:
        layer: Computation of an adapted layer, and its PEFT options.
        init: Initial factors; None for PEFT's Kaiming-uniform A and zero B.
        optimizer: Optimizer; None for the one that the engine's arguments choose (AdamW).
        penalty: Term added to the loss; None for none.
        procedure: Actions around the optimizer steps; the default has none.
        export: Forms in which the adapter is saved.
    """

    layer: Layer = field(default_factory=Layer)
    init: Init | None = None
    optimizer: OptimizerPart | None = None
    penalty: Penalty | None = None
    procedure: Procedure = field(default_factory=Procedure)
    export: Export = field(default_factory=Export)

    def passes(self, total_steps: int) -> float:
        """Return the largest number of passes over a batch that `total_steps` steps take.

        A forward pass counts as a third.
        """
        forwards = 0 if self.penalty is None else self.penalty.forwards()
        return self.procedure.passes(total_steps) * (1 + forwards * FORWARD)

    def parts(self) -> Iterator[Part]:
        """Yield the parts in the slots, combined ones one by one; defaults are left out."""
        for slot in SLOT_NAMES:
            if (part := getattr(self, slot)) is not None:
                yield from part.members()

    def filled(self) -> list[str]:
        """Return the names of the slots for parts that differ from plain LoRA."""
        plain = Slots()
        return [
            name
            for name in SLOT_NAMES
            if type(getattr(self, name)) is not type(getattr(plain, name))
        ]
