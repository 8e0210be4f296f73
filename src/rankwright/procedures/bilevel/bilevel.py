"""Bilevel training: upper parameters on held-out rows, lower parameters on the rest.

    V*(m) = argmin_V L_tr(V, m) + penalty(V),      min_m L_val(V*(m), m)

Search takes lower steps on V and, after every K of them, an upper step on m along the hypergradient
(:mod:`.hypergradient`). Retraining then starts V anew on all rows, m fixed.
The form is that of "BiDoRA", arXiv 2410.09758; nothing here knows what V and m are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from rankwright.core.fields import check_field, is_regex, none_or_at_least
from rankwright.core.part_registry import part_name, register_part
from rankwright.core.run import Run
from rankwright.core.schedule import Multiplier, Phase, Shape
from rankwright.core.slots import LOWER, UPPER, Layer, Procedure, ProcedureState
from rankwright.errors import MethodError
from rankwright.layers.dora import Dora
from rankwright.layers.gated import fix_gates
from rankwright.procedures.bilevel.hypergradient import (
    FINITE_DIFFERENCES,
    MODES,
    UNROLLED,
    Estimate,
    Hypergradient,
    LowerStep,
    Mode,
    extra_passes,
)
from rankwright.procedures.bilevel.row_split import RowSplit, split_rows
from rankwright.procedures.bilevel.tensor_lists import global_norm

if TYPE_CHECKING:
    from rankwright.core.slots import Slots

RetrainFrom = Literal["snapshot", "warm"]

MAGNITUDES = "lora_magnitude_vector"
METRICS = ("upper_loss", "hypergradient_norm", "implicit_to_direct")


@register_part("bilevel")
@dataclass(frozen=True)
class Bilevel(Procedure):
    """Search over upper parameters, then retraining of the lower ones.

    "BiDoRA" is its published code, t2ance/BiDoRA@e7922af. Steps are optimizer steps.

    Attributes:
        upper: Regular expression, searched for in parameter names; what it matches is upper, every
            other trainable parameter is lower. By default DoRA's magnitudes.
        hypergradient: How the upper gradient is computed: "fd_forward" (3 passes an upper step, the
            lower one included; ours), "fd_central" (4), "exact" (autograd twice), "first_order" (2)
            or "betty" (4, BiDoRA).
        val_fraction: Share of the training rows held out for the upper level, in (0, 1); 0.2
            (BiDoRA).
        unroll_steps: K, lower steps for each upper step; 1 (BiDoRA; 4 when time matters).
        upper_lr: Learning rate of the upper parameters; None for that of the lower ones
            (BiDoRA).
        upper_weight_decay: Decay of the upper parameters; 0 (ours: it would shrink a layer by its
            magnitudes; BiDoRA: 0 to 1).
        upper_betas: Adam's betas of the upper parameters; None for those of the lower ones
            (BiDoRA: 0.9 and 0.98 for both).
        fd_radius: Radius R0 of the finite difference; None for 0.01, 0.1 in half precision
            (BiDoRA: 0.01).
        fd_share: Share of the rows of each lower micro-batch on which the finite difference is
            taken, in (0, 1]; 1 for all (BiDoRA). Below 1 it is central in "fd_forward" too, and
            an upper step takes 2 + 2 fd_share passes: an unbiased and noisier estimate where the
            loss is a mean over rows (`Run.some_rows`), cheaper than "fd_forward" on whole batches
            below a half.
        xi: Length of the unrolled step; None for the present lower learning rate.
        retrain: Whether the lower parameters are trained anew with the upper ones fixed (BiDoRA:
            in some of the scripts).
        search_fraction: Share of the optimizer steps that goes to search, if `retrain`.
        retrain_from: "snapshot": lower parameters as they were before the search (BiDoRA);
            "warm": as they are at its end. Their optimizer state is new in both.
        retrain_lr_ratio: Learning rate of the retraining, relative to that of the search.
        warmup: Share of the search's steps before the first upper step, in [0, 1); 0 (BiDoRA).
            Gates on LoRA's ranks need some: while B = 0 they have no gradient.
    """

    upper: str = MAGNITUDES
    hypergradient: Mode = "fd_forward"
    val_fraction: float = 0.2
    unroll_steps: int = 1
    upper_lr: float | None = None
    upper_weight_decay: float = 0.0
    upper_betas: tuple[float, float] | None = None
    fd_radius: float | None = None
    fd_share: float = 1.0
    xi: float | None = None
    retrain: bool = True
    search_fraction: float = 0.5
    retrain_from: RetrainFrom = "snapshot"
    retrain_lr_ratio: float = 1.0
    warmup: float = 0.0

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            MethodError: A field is out of its range.
        """
        betas = (0.0, 0.0) if self.upper_betas is None else self.upper_betas
        decays = len(betas) == 2 and all(0 <= beta < 1 for beta in betas)
        one_of = " or ".join(MODES), " or ".join(get_args(RetrainFrom))
        rate = none_or_at_least(self.upper_lr, 0)
        radius = self.fd_radius is None or self.fd_radius > 0
        drawn = self.fd_share == 1 or self.hypergradient in FINITE_DIFFERENCES
        for name, holds, expected in (
            ("upper", is_regex(self.upper), "a regular expression"),
            ("hypergradient", self.hypergradient in MODES, one_of[0]),
            ("val_fraction", 0 < self.val_fraction < 1, "a share in (0, 1)"),
            ("unroll_steps", self.unroll_steps >= 1, "an integer of at least 1"),
            ("upper_lr", rate, "a learning rate of at least 0, or None"),
            ("upper_weight_decay", self.upper_weight_decay >= 0, "a number of at least 0"),
            ("upper_betas", decays, "two numbers in [0, 1), or None"),
            ("fd_radius", radius, "a number above 0, or None"),
            ("fd_share", 0 < self.fd_share <= 1, "a share in (0, 1]"),
            ("fd_share", drawn, f"1 with {self.hypergradient}, which takes no finite difference"),
            ("xi", none_or_at_least(self.xi, 0), "a number of at least 0, or None"),
            ("search_fraction", 0 < self.search_fraction < 1, "a share in (0, 1)"),
            ("retrain_from", self.retrain_from in get_args(RetrainFrom), one_of[1]),
            ("retrain_lr_ratio", self.retrain_lr_ratio > 0, "a number above 0"),
            ("warmup", 0 <= self.warmup < 1, "a share in [0, 1)"),
        ):
            check_field(self, name, holds, expected)

    def phase_steps(self, total_steps: int) -> tuple[int, int]:
        """Steps of search and of retraining.

        Raises:
            MethodError: A phase would be empty, or the search shorter than one upper step.
        """
        search = round((self.search_fraction if self.retrain else 1.0) * total_steps)
        warm = self.warmup_steps(search)
        if search - warm < self.unroll_steps or (self.retrain and search == total_steps):
            raise MethodError(
                f"{total_steps} optimizer steps give {search} of search"
                f"{f', {warm} of them warm-up,' if warm else ''} and {total_steps - search} "
                f"of retraining; the search needs at least unroll_steps={self.unroll_steps}"
                f"{' after the warm-up' if warm else ''}"
                f"{' and retraining at least 1' if self.retrain else ''}: train for more steps"
                f"{' or change search_fraction' if self.retrain else ''}"
            )
        return search, total_steps - search

    def warmup_steps(self, search: int) -> int:
        """Return the steps of a search before its first upper step."""
        return round(self.warmup * search)

    def upper_steps(self, search: int) -> int:
        """Return the number of upper steps of a search."""
        return search // self.unroll_steps - self.warmup_steps(search) // self.unroll_steps

    def passes(self, total_steps: int) -> float:
        """One a step, and those of the hypergradient in every upper step."""
        search, _ = self.phase_steps(total_steps)
        extra = extra_passes(self.hypergradient, self.fd_share)
        return total_steps + self.upper_steps(search) * extra

    def layer(self) -> Layer | None:
        """DoRA with its full gradient, where `upper` names its magnitudes."""
        return Dora("full") if self.upper == MAGNITUDES else None

    def check(self, slots: Slots) -> None:
        """See `Part.check`."""
        optimizer = slots.optimizer
        if self.hypergradient in UNROLLED and optimizer and not optimizer.elementwise:
            raise MethodError(
                f'{part_name(optimizer)} with hypergradient="{self.hypergradient}": an entry of a '
                "factor moves by the gradients of others too, and the Jacobian of such an update "
                'is not known; use hypergradient="first_order" or "betty", which do not need it'
            )
        if self.hypergradient in FINITE_DIFFERENCES and not slots.layer.exact_gradient:
            raise MethodError(
                f'norm_grad="detached" with hypergradient="{self.hypergradient}": a finite '
                "difference moves the norm that the gradient takes for constant, and the two "
                'disagree by some 24 %; use norm_grad="full", or "exact" or "first_order"'
            )

    def start(self, run: Run) -> BilevelState:
        """The live procedure of one run.

        Raises:
            MethodError: `upper` matches no trainable parameter, or all of them.
        """
        return BilevelState(run, self)


class BilevelState(ProcedureState):
    """A bilevel run at work.

    The lower step leaves upper parameters alone because their `.grad` is None then, and the other
    way round: one optimizer object serves both levels.
    """

    needs = frozenset({"after_backward", "after_step"})
    asks_held_out = True

    _lower: dict[str, nn.Parameter]
    _upper: dict[str, nn.Parameter]
    _hypergradient: Hypergradient
    _lower_step: LowerStep

    def __init__(self, run: Run, settings: Bilevel) -> None:
        super().__init__(run)
        self.settings = settings
        self.replays = settings.hypergradient != "first_order"
        self.restricts_rows = not run.own_held_out
        self._held_out_index = 0
        self._snapshot: dict[str, Tensor] = {}
        self._saved: dict[str, Any] = {}
        self._check_roles()

    # What the engine asks ------------------------------------------------------------------------

    def phases(self, total_steps: int) -> list[Phase]:
        """Search, and retraining if asked for.

        Raises:
            MethodError: A phase would be empty, or the search shorter than one upper step.
        """
        search, retraining = self.settings.phase_steps(total_steps)
        if not self.settings.retrain:
            return [Phase("search", search)]
        return [Phase("search", search), Phase("retrain", retraining)]

    def rows(self, phase: int) -> Sequence[int] | None:
        """D_tr in the search, all rows in retraining or when the user brings the held-out set."""
        return self._split.lower if phase == 0 and self._split.held_out else None

    def held_out_rows(self) -> Sequence[int]:
        """See `ProcedureState.held_out_rows`; none if the user passed held-out rows."""
        return self._split.held_out

    @cached_property
    def _split(self) -> RowSplit:
        return split_rows(self.run, self.settings.val_fraction)

    def role(self, name: str) -> str:
        """`upper` for names that the regular expression matches, else `lower`."""
        return UPPER if re.search(self.settings.upper, name) else LOWER

    def group_options(self, role: str) -> dict[str, Any]:
        """Learning rate, decay and betas of the upper group."""
        if role != UPPER:
            return {}
        settings = self.settings
        options: dict[str, Any] = {"weight_decay": settings.upper_weight_decay}
        if settings.upper_lr is not None:
            options["lr"] = settings.upper_lr
        if settings.upper_betas is not None:
            options["betas"] = settings.upper_betas
        return options

    def schedule(self, role: str, shape: Shape, total_steps: int) -> Multiplier:
        """The user's shape over the search, then over retraining; upper: over the upper steps."""
        search, *retraining = (phase.steps for phase in self.phases(total_steps))
        every, warm = self.settings.unroll_steps, self.settings.warmup_steps(search)
        if role == UPPER:
            upper = shape(math.ceil((search - warm) / every))
            return lambda step: upper((step - warm) // every) if warm <= step < search else 0.0
        first = shape(search)
        if not retraining:
            return first
        second, ratio = shape(retraining[0]), self.settings.retrain_lr_ratio
        return lambda step: first(step) if step < search else ratio * second(step - search)

    # Events --------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Take the snapshot of the lower parameters; on resumption compare with what was saved.

        Raises:
            MethodError: The checkpoint belongs to other phases or another division of the rows, the
                rows cannot be divided, or the optimizer's Jacobian is not known.
        """
        run, settings = self.run, self.settings
        self._check_checkpoint()
        self._lower, self._upper = run.trainable(LOWER), run.trainable(UPPER)
        self._hypergradient = Hypergradient(
            run,
            list(self._lower.values()),
            list(self._upper.values()),
            settings.hypergradient,
            fd_radius=settings.fd_radius,
            fd_share=settings.fd_share,
            xi=settings.xi,
        )
        if settings.retrain and settings.retrain_from == "snapshot" and not self._snapshot:
            self._snapshot = {name: p.detach().clone() for name, p in self._lower.items()}
        if run.phase_at(run.step)[0] > 0:
            fix_gates(run.model, self._upper.values())

    def after_backward(self) -> None:
        """Note what the upper step needs, and keep the optimizer from moving the upper level."""
        if self.run.phase_at(self.run.step)[0] != 0:
            for name in METRICS:  # the last search step has been logged by now
                self.run.metrics.pop(name, None)
        if self._upper_step_is_due():
            self._lower_step = self._hypergradient.record()
        _forget_gradients(self._upper)

    def after_step(self) -> None:
        """The upper step, if one is due; after the last search step, the turn to retraining."""
        if self._upper_step_is_due():
            self._upper_step()
        phase, done = self.run.phase_at(self.run.step)
        if self.settings.retrain and phase == 0 and done + 1 == self.run.phases[0].steps:
            self.start_retraining()

    def _upper_step_is_due(self) -> bool:
        phase, done = self.run.phase_at(self.run.step)
        warm = self.settings.warmup_steps(self.run.phases[0].steps)
        return phase == 0 and done >= warm and (done + 1) % self.settings.unroll_steps == 0

    def _upper_step(self) -> None:
        estimate = self._hypergradient(self._lower_step, self.run.held_out(self._held_out_index))
        self._held_out_index += 1
        _forget_gradients(self._lower)
        for parameter, h in zip(self._upper.values(), estimate.gradient, strict=True):
            parameter.grad = h.to(parameter.dtype)
        self.run.step_optimizer()
        _forget_gradients(self._upper)
        self._report(estimate)

    def _report(self, estimate: Estimate) -> None:
        direct, implicit = estimate.direct_norm, estimate.implicit_norm
        self.run.metrics["upper_loss"] = estimate.upper_loss
        self.run.metrics["hypergradient_norm"] = float(global_norm(estimate.gradient))
        self.run.metrics["implicit_to_direct"] = implicit / direct if direct > 0 else math.inf

    def start_retraining(self) -> None:
        """Put the lower parameters back to the snapshot; forget the optimizer's state."""
        if self._snapshot:
            with torch.no_grad():
                for name, parameter in self._lower.items():
                    parameter.copy_(self._snapshot[name])
        self.run.reset_optimizer([*self._lower.values(), *self._upper.values()])
        fix_gates(self.run.model, self._upper.values())

    # State ---------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Position in the held-out stream, the snapshot, and what must not change on resumption."""
        return {
            "held_out_index": self._held_out_index,
            "snapshot": dict(self._snapshot),
            **self._fixed(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore; `begin` compares phases and rows with those of the checkpoint."""
        self._held_out_index = state["held_out_index"]
        self._snapshot = dict(state["snapshot"])
        self._saved = {"phases": state["phases"], "split": state["split"]}

    def _fixed(self) -> dict[str, Any]:
        """Return what a resumed run must have in common with the run that it continues."""
        phases = {phase.name: phase.steps for phase in self.run.phases}
        return {"phases": phases, "split": self._split.digest(self.run.train_rows())}

    # Checks --------------------------------------------------------------------------------------

    def _check_checkpoint(self) -> None:
        present = self._fixed()
        for what, saved in self._saved.items():
            if saved != present[what]:
                raise MethodError(
                    f"this checkpoint cannot be resumed: its {what} is {saved}, that of this run "
                    f"{present[what]}; resume with the same training rows, seed and number of steps"
                )

    def _check_roles(self) -> None:
        names = [name for name, p in self.run.model.named_parameters() if p.requires_grad]
        matched = [name for name in names if self.role(name) == UPPER]
        if not matched or len(matched) == len(names):
            raise MethodError(
                f"upper={self.settings.upper!r} matches {len(matched)} of {len(names)} trainable "
                "parameters; expected some but not all of them, for example of "
                f"{', '.join(names[:4])}"
            )


def _forget_gradients(parameters: dict[str, nn.Parameter]) -> None:
    for parameter in parameters.values():
        parameter.grad = None
