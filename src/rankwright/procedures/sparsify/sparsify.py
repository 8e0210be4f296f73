"""Gates that a proximal step drives to exact zeros, and ranks that are dropped in the end.

    g <- T_xi(g - step of the optimizer),      T_xi(x) = sign(x) max(|x| - xi, 0)

after every optimizer step, whatever the optimizer: with a plain gradient step of size eta this is
proximal gradient descent on L + (xi / eta) sum |g|_1 (SoRA, arXiv 2311.11696). The layer is that of
:mod:`rankwright.layers.gated`. A gate at zero keeps its own gradient, so a step of more than xi
opens it again; only after the last step is a closed rank dropped for good.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from rankwright.core.fields import check_field
from rankwright.core.part_registry import register_part
from rankwright.core.run import Run
from rankwright.core.schedule import Multiplier, Phase, Shape
from rankwright.core.slots import Layer, Procedure, ProcedureState
from rankwright.errors import MethodError
from rankwright.layers.gated import GatedLoRA, gated_factors, prune, rank_metrics
from rankwright.peft_layers.layers import adapted_layers
from rankwright.procedures.sparsify.proximal import THRESHOLDS, Threshold

logger = logging.getLogger(__name__)

XiSchedule = Literal["linear", "log_linear", "exp_linear"]

ROLE = "gate"


@register_part("sparsify")
@dataclass(frozen=True, kw_only=True)
class Sparsify(Procedure):
    """Thresholds on the gates, in stages, and pruning.

    "Published" is the code at TsinghuaC3I/SoRA@c275ac2.

    Attributes:
        xi: Threshold on the gates after every optimizer step, at least 0; in the first of several
            stages. 3e-4 (published for STS-B). A gate from 1 reaches 0 in 1 / xi steps, so a
            shorter run needs a larger one.
        xi_last: Threshold of the last stage; None for `xi` (published for RTE: 7e-4, from 0).
        stages: Number of stages, each with the learning-rate schedule from its start (ours: with
            the published one the later stages have a learning rate of 0); 1 (published for RTE: 7).
        xi_schedule: How the thresholds lie between the two: evenly ("linear"), evenly in their
            exponentials ("log_linear") or in their logarithms ("exp_linear").
        first_stage: Share of the steps that the first of several stages takes; the others are
            equally long. 0.36 (published for RTE).
        dense_share: Share of the first stage's steps before the first threshold, in which B leaves
            zero; 0.06 (ours; published: 0).
        threshold: "soft" for T_xi (paper), or "published": the code's rule, which closes gates
            below 2 xi.
        scale_with_lr: Whether the threshold of a step is xi times its learning rate of the gates,
            for an xi of 0.3 or so (an unused file of the published code).
        gate_lr: Learning rate of the gates; None for that of the factors (published).
        prune: Whether ranks with a gate at zero are dropped after the last step (ours; the
            published code only counts them).
    """

    xi: float = 3e-4
    xi_last: float | None = None
    stages: int = 1
    xi_schedule: XiSchedule = "linear"
    first_stage: float = 0.36
    dense_share: float = 0.06
    threshold: Threshold = "soft"
    scale_with_lr: bool = False
    gate_lr: float | None = None
    prune: bool = True

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            MethodError: A field is out of its range.
        """
        last = self.xi if self.xi_last is None else self.xi_last
        geometric = self.xi_schedule == "exp_linear" and self.stages > 1
        for name, holds, expected in (
            ("xi", 0 <= self.xi < math.inf, "a finite number of at least 0"),
            ("xi", self.xi > 0 or not geometric, "a number above 0 with exp_linear"),
            ("xi_last", self.xi <= last < math.inf, "a finite number of at least xi, or None"),
            ("stages", self.stages >= 1, "an integer of at least 1"),
            ("stages", self.stages > 1 or last == self.xi, "at least 2 to get from xi to xi_last"),
            ("xi_schedule", self.xi_schedule in get_args(XiSchedule), _one_of(XiSchedule)),
            ("first_stage", 0 < self.first_stage < 1, "a share in (0, 1)"),
            ("dense_share", 0 <= self.dense_share < 1, "a share in [0, 1)"),
            ("threshold", self.threshold in THRESHOLDS, _one_of(Threshold)),
            ("gate_lr", self.gate_lr is None or self.gate_lr >= 0, "at least 0, or None"),
        ):
            check_field(self, name, holds, expected)

    def thresholds(self) -> list[float]:
        """One xi a stage."""
        last = self.xi if self.xi_last is None else self.xi_last
        return xi_values(self.xi, last, self.stages, self.xi_schedule)

    def layer(self) -> Layer:
        """Ranks with gates."""
        return GatedLoRA()

    def start(self, run: Run) -> SparsifyState:
        """See `Procedure.start`.

        Raises:
            MethodError: The layers have no gates.
        """
        return SparsifyState(run, self)


class SparsifyState(ProcedureState):
    """The gates at work."""

    needs = frozenset({"after_step"})

    def __init__(self, run: Run, settings: Sparsify) -> None:
        super().__init__(run)
        self.settings = settings
        factors = gated_factors(run.layers, run.adapter_name)
        self.gates = [factor.gate for factor in factors.values()]
        self.xi = settings.thresholds()
        self._saved_lengths: list[int] = []  # of the run that is resumed

    # What the engine asks ----------------------------------------------------------------------

    def phases(self, total_steps: int) -> list[Phase]:
        """One phase a stage.

        Raises:
            MethodError: There are fewer steps than stages.
        """
        stages = self.settings.stages
        if stages == 1:
            return [Phase("train", total_steps)]
        if total_steps < stages:
            raise MethodError(
                f"stages = {stages}, but the run has {total_steps} optimizer steps; train longer "
                "or choose fewer stages"
            )
        first = min(
            max(1, round(self.settings.first_stage * total_steps)), total_steps - stages + 1
        )
        short, longer = divmod(total_steps - first, stages - 1)
        lengths = [first, *(short + (place < longer) for place in range(stages - 1))]
        return [Phase(f"stage {i}/{stages}", steps) for i, steps in enumerate(lengths, start=1)]

    def role(self, name: str) -> str:
        """The gates have a group of their own."""
        return ROLE if name.endswith(".gate") else super().role(name)

    def group_options(self, role: str) -> dict[str, Any]:
        """The gates' learning rate."""
        lr = self.settings.gate_lr
        return {"lr": lr} if role == ROLE and lr is not None else {}

    def schedule(self, role: str, shape: Shape, total_steps: int) -> Multiplier:
        """The user's schedule, from its start in every stage."""
        del role
        phases = self.phases(total_steps)
        shapes = [shape(phase.steps) for phase in phases]
        starts = [sum(phase.steps for phase in phases[:i]) for i in range(len(phases))]

        def multiplier(step: int) -> float:
            stage = max(i for i, start in enumerate(starts) if start <= step)
            return shapes[stage](step - starts[stage])

        return multiplier

    # Events ------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Say so where the thresholds cannot do what they are for.

        Raises:
            MethodError: The run that goes on had stages of other lengths.
        """
        lengths = self._lengths()
        if self._saved_lengths not in ([], lengths):
            raise MethodError(
                f"this checkpoint cannot be resumed: its stages have {self._saved_lengths} steps, "
                f"those of this run {lengths}; resume with the same number of steps and stages"
            )
        if self.run.step == 0 and max(self.xi) > 0 and not self.settings.scale_with_lr:
            self._warn()
        self._measure(0.0)

    def after_step(self) -> None:
        """Threshold the gates."""
        xi = self.xi_now()
        if xi:
            THRESHOLDS[self.settings.threshold](self.gates, xi)
        self._measure(xi)

    def xi_now(self) -> float:
        """The threshold of the step in hand."""
        stage, done = self.run.phase_at(self.run.step)
        if stage == 0 and done < self._dense_steps():
            return 0.0
        scaled = self.settings.scale_with_lr
        return self.xi[stage] * (float(self._group()["lr"]) if scaled else 1.0)

    def end(self) -> None:
        """Drop the ranks whose gate is zero."""
        if not self.settings.prune:
            return
        ranks = prune(self.run.model, self.run.adapter_name)
        self.run.layers = adapted_layers(self.run.model)
        logger.info("ranks kept: %s", ranks)

    # State -------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The lengths of the stages; gates are in the state of the layers."""
        return {"stages": self._lengths()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo of `state_dict`; `begin` compares the stages."""
        self._saved_lengths = list(state["stages"])

    # Looking -----------------------------------------------------------------------------------

    def _lengths(self) -> list[int]:
        return [phase.steps for phase in self.run.phases]

    def _dense_steps(self) -> int:
        return int(self.settings.dense_share * self.run.phases[0].steps)

    def _group(self) -> dict[str, Any]:
        return self.run.group_of(self.gates[0])

    def _measure(self, xi: float) -> None:
        self.run.metrics["xi"] = xi
        self.run.metrics |= rank_metrics(self.run.layers, self.run.adapter_name)

    def _warn(self) -> None:
        steps = self._lengths()
        travel = sum(xi * n for xi, n in zip(self.xi, steps, strict=True))
        travel -= self.xi[0] * self._dense_steps()
        nearest = min(float(gate.detach().abs().min()) for gate in self.gates)
        if travel < nearest:
            logger.warning(
                "xi = %g shrinks a gate by %.2g over %d steps, and the smallest starts at %.2g: a "
                "rank is pruned only where the loss itself closes its gate; raise xi to %.1g, say, "
                "and gate_lr above it, or train longer",
                *(self.settings.xi, travel, sum(steps), nearest, 2 * nearest / sum(steps)),
            )
        peak = float(self._group().get("initial_lr", self._group()["lr"]))
        if peak <= max(self.xi):
            logger.warning(
                "the learning rate of the gates, %g, is not above xi = %g, and AdamW moves a gate "
                "by about the learning rate: every gate goes to zero whatever the loss says; raise "
                "gate_lr or lower xi",
                *(peak, max(self.xi)),
            )


def xi_values(first: float, last: float, stages: int, schedule: XiSchedule) -> list[float]:
    """Thresholds from `first` to `last`, both included, one a stage."""
    if stages == 1:
        return [first]
    there, back = {
        "linear": (float, float),
        "log_linear": (math.expm1, math.log1p),
        "exp_linear": (math.log, math.exp),
    }[schedule]
    steps = torch.linspace(there(first), there(last), stages, dtype=torch.float64)
    return [first, *(back(x) for x in steps[1:-1].tolist()), last]


def _one_of(choices: Any) -> str:
    return " or ".join(get_args(choices))
