"""The parts a method is made of: one base class for each slot, its default behaviour, nothing else.

A part knows neither a method nor a trainer; all that it may touch is a `Run`
(:mod:`rankwright.core.run`). Parts are frozen dataclasses: fields are hyperparameters. State that
lives through a run is kept on the object that `Procedure.start` returns. A part that a user may
plug onto any method has a name (`catalogue.part`); a field that only Python can set, a function
say, is declared with `repr=False`.
"""

from __future__ import annotations

import contextlib
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from rankwright.core.schedule import FORWARD, Multiplier, Phase, Shape
from rankwright.errors import FieldError, MethodError, did_you_mean

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from torch import Tensor

    from rankwright.core.batch import MicroBatch
    from rankwright.core.model_call import ModelCall
    from rankwright.core.run import Run

SLOT_NAMES = ("layer", "init", "optimizer", "penalty", "procedure")
"""In the order in which a method is put together."""


@dataclass(frozen=True)
class Origin:
    """The part's field behind a method's field.

    Attributes:
        part: The part's class.
        name: The field's name in the part.
        default: The method's own default; MISSING for the part's.
    """

    part: type[Part]
    name: str
    default: Any

    @property
    def field(self) -> dataclasses.Field[Any]:
        """The part's field.

        Raises:
            MethodError: The part has no such field.
        """
        fields = {field.name: field for field in dataclasses.fields(self.part)}  # type: ignore[arg-type]
        if self.name not in fields:
            raise MethodError(
                f"{self.part.__name__} has no field {self.name!r}{did_you_mean(self.name, fields)}"
            )
        return fields[self.name]


class TakesFields(Protocol):
    """A method, as far as `Part.from_fields` needs to know it.

    Attributes:
        origins: Its fields that come from parts, by name.
    """

    origins: ClassVar[dict[str, Origin]]


class Part:
    """What fills a slot."""

    experts: ClassVar[bool] = False
    """Whether it supports adapted parameters that are not in linear layers (experts)."""

    @classmethod
    def from_fields(
        cls, method: TakesFields, *, without: Iterable[str] = (), **others: Any
    ) -> Self:
        """A part with the fields that a method takes from it (`part_fields.from_part`).

        Args:
            method: The method.
            without: Fields that keep their defaults, as do those that only Python can set
                (`repr=False`).
            others: Values of fields that the method does not have.

        Raises:
            FieldError: A value is refused; named after the method's field.
            MethodError: A field is in none of the three or in two of them, or does not exist.
        """
        taken = {o.name: name for name, o in method.origins.items() if o.part is cls}
        _check_coverage(method, cls, [*taken, *without, *others])
        try:
            return cls(**{name: getattr(method, own) for name, own in taken.items()}, **others)
        except FieldError as error:
            if error.name not in taken:
                raise
            owner, own = type(method).__name__, taken[error.name]
            raise FieldError(owner, own, error.value, error.expected) from error

    def layer(self) -> Layer | None:
        """The layer it works on, brought along where a method has the plain one; None: any."""
        return None

    def members(self) -> tuple[Part, ...]:
        """The parts that it combines, or itself; none for the default of a slot."""
        return () if type(self) in (Layer, Procedure) else (self,)

    def check(self, slots: Slots) -> None:
        """Refuse what it cannot work beside.

        Args:
            slots: All slots of the method, filled.

        Raises:
            MethodError: There is such a part.
        """
        del slots


def _check_coverage(method: TakesFields, cls: type[Part], given: list[str]) -> None:
    """Refuse a part with a field that the method omits, gives twice or misspells."""
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    names = [field.name for field in fields]
    wrong = {
        "missing": [f.name for f in fields if f.repr and f.name not in given],
        "given twice": [name for name in names if given.count(name) > 1],
        "unknown": [name for name in given if name not in names],
    }
    for what, found in wrong.items():
        if found:
            raise MethodError(
                f"{type(method).__name__} and its part {cls.__name__}: {what}: {', '.join(found)}; "
                "expected each field of the part once: as a field of the method (from_part), with "
                "a value in from_fields, or in without="
            )


@dataclass(frozen=True)
class Layer(Part):
    """How an adapted layer computes, and under which PEFT options. The default is PEFT's LoRA.

    Checkpoints of a run store the parameters and buffers that `install` adds to the layers
    (:mod:`rankwright.peft_layers.layer_state`); the part does not have to save them.
    """

    @property
    def exact_gradient(self) -> bool:
        """Whether autograd differentiates all that it computes, which finite differences see."""
        return True

    def peft_options(self) -> dict[str, Any]:
        """Extra arguments of `peft.LoraConfig`."""
        return {}

    def install(self, model: PeftModel, adapter_name: str) -> None:
        """Change the freshly injected layers in place, where PEFT's own are not enough."""


class Init(Part, ABC):
    """Where the factors start."""

    @abstractmethod
    def initialise(self, model: PeftModel, adapter_name: str) -> None:
        """Write the factors of every adapted layer. The global random state is already seeded."""


class OptimizerPart(Part, ABC):
    """How the factors move.

    An optimizer with a true attribute `owns_clipping` gets its gradients as they are: the engine
    does not clip them and says so.
    """

    sharded: ClassVar[bool] = False
    """Whether a process can step the pieces of parameters that deepspeed and fsdp leave to it."""

    elementwise: ClassVar[bool] = True
    """Whether an entry of a parameter moves by its own gradients alone; a hypergradient asks."""

    @abstractmethod
    def build(self, run: Run, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Build the optimizer.

        Args:
            run: The run; gives the adapted layers by name.
            groups: Parameter groups with `params`, `role`, `lr` and `weight_decay`.
        """


class Penalty(Part):
    """What is added to the loss: for the parameters, for the outputs of a batch, or for both."""

    def check_run(self, run: Run) -> None:
        """Refuse a run that it cannot serve; called when the run is built.

        Raises:
            MethodError: The model or the procedure does not have what it works on.
        """
        del run

    def __call__(self, run: Run) -> Tensor | None:
        """Once an optimizer step: a 0-dim tensor of the present parameters, weight included."""
        del run
        return None

    def of_outputs(self, run: Run, call: ModelCall) -> Tensor | None:
        """For every training batch: a 0-dim tensor of its outputs, weight included.

        The engine adds it to the loss of the batch. A step takes the mean over its micro-batches
        on all processes, weighted by their numbers of targets, as for the loss.
        """
        del run, call
        return None

    def reads_outputs(self) -> bool:
        """Whether `of_outputs` is to be called."""
        return type(self).of_outputs is not Penalty.of_outputs

    def forwards(self) -> int:
        """Forward passes over a batch that `of_outputs` takes, at most."""
        return 0


@dataclass(frozen=True)
class Export:
    """What is saved. The default is the adapter as it stands."""

    artefact: str = "LoRA adapter of rank r"


@dataclass(frozen=True)
class Procedure(Part):
    """What happens around the steps; the default is nothing.

    A procedure is a frozen dataclass of hyperparameters. `start` gives the object with the state.
    """

    def passes(self, total_steps: int) -> float:
        """Forward-and-backward passes over a batch that `total_steps` steps take, at most."""
        return float(total_steps)

    def start(self, run: Run) -> ProcedureState:
        """The live procedure of one run; called when the run is built, before the optimizer is.

        Raises:
            MethodError: The run cannot serve this procedure (no held-out rows, say).
        """
        return ProcedureState(run)


class ProcedureState:
    """A procedure at work. Events in order: begin, (before_step, after_backward, after_step)*, end.

    `run.step` is the 0-based index of the step in hand throughout all three events of a step.
    """

    needs: frozenset[str] = frozenset()
    """Events without which the procedure has not done its work; checked when training ends."""

    replays: bool = False
    """Whether the step's batches are evaluated again, under the same random state."""

    asks_held_out: bool = False
    """Whether it learns from `run.held_out`."""

    restricts_rows: bool = False
    """Whether some phase draws from a part of the training rows only (`rows`)."""

    def __init__(self, run: Run) -> None:
        self.run = run

    # What the engine asks before the first step -----------------------------------------------

    def phases(self, total_steps: int) -> list[Phase]:
        """How `total_steps` optimizer steps are divided; their sum is `total_steps`."""
        return [Phase("train", total_steps)]

    def rows(self, phase: int) -> Sequence[int] | None:
        """Training rows that phase number `phase` draws from; None for all of them.

        Called when the first batch of the phase is fetched, which may be one batch ahead.
        """
        del phase
        return None

    def held_out_rows(self) -> Sequence[int]:
        """Training rows that are set aside for `run.held_out`; disjoint from what trains."""
        return ()

    def role(self, name: str) -> str:
        """The parameter group of the parameter called `name`."""
        del name
        return "lower"

    def group_options(self, role: str) -> dict[str, Any]:
        """Optimizer options of a group that differ from the user's (`lr`, `weight_decay`, ...)."""
        del role
        return {}

    def schedule(self, role: str, shape: Shape, total_steps: int) -> Multiplier:
        """The learning-rate factor of a group at every step."""
        del role
        return shape(total_steps)

    # Events ------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Before the first step, also of a resumed run (`load_state_dict` came before)."""

    def before_step(self) -> None:
        """Before the first micro-batch of a step."""

    def after_backward(self) -> None:
        """Gradients of the whole step are in `.grad`: averaged, penalty included, not clipped."""

    def after_step(self) -> None:
        """The optimizer has stepped; gradients are still there, the schedule has not advanced."""

    def end(self) -> None:
        """After the last step."""

    def abandon(self) -> None:
        """A step failed, at any point: leave the model as it is between steps."""

    @contextlib.contextmanager
    def replaying(self, batch: MicroBatch) -> Iterator[None]:
        """Around every evaluation of `batch` that is not the step's own forward.

        A procedure that changes what the step's forward computes does the same here, so that the
        loss of a training batch is one function throughout the step.
        """
        del batch
        yield

    # State -------------------------------------------------------------------------------------

    def members(self) -> Iterator[ProcedureState]:
        """This procedure, or those that it combines."""
        yield self

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on after a crash: tensors, numbers, strings, lists, dicts."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore; called before the adapter's weights are loaded and the optimizer is built."""
        del state


@dataclass(frozen=True, kw_only=True)
class Slots:
    """The six questions a method answers; a default is plain LoRA with AdamW.

    Attributes:
        layer: How does an adapted layer compute, under which PEFT options?
        init: Where do the factors start? None: PEFT's Kaiming-uniform A and zero B.
        optimizer: How do the factors move? None: what the trainer's arguments say (AdamW).
        penalty: What is added to the loss? None: nothing.
        procedure: What happens around the steps? The default does nothing.
        export: What is saved?
    """

    layer: Layer = field(default_factory=Layer)
    init: Init | None = None
    optimizer: OptimizerPart | None = None
    penalty: Penalty | None = None
    procedure: Procedure = field(default_factory=Procedure)
    export: Export = field(default_factory=Export)

    def passes(self, total_steps: int) -> float:
        """Passes over a batch that `total_steps` steps take, at most; a forward is a third."""
        forwards = 0 if self.penalty is None else self.penalty.forwards()
        return self.procedure.passes(total_steps) * (1 + forwards * FORWARD)

    def parts(self) -> Iterator[Part]:
        """What the slots are filled with; parts that combine others give these."""
        for slot in SLOT_NAMES:
            if (part := getattr(self, slot)) is not None:
                yield from part.members()

    def filled(self) -> list[str]:
        """Names of the slots that differ from plain LoRA."""
        plain = Slots()
        return [
            slot.name
            for slot in dataclasses.fields(self)
            if type(getattr(self, slot.name)) is not type(getattr(plain, slot.name))
        ]
