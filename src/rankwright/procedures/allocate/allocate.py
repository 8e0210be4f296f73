"""Ranks moved among layers while they train: gates with the lowest scores are set to zero.

Training starts with more ranks than the adapter is to have. Between `warm` and `cool` the gates of
the components with the lowest scores of all layers are set to zero every few steps, more of them
each time (:mod:`rankwright.procedures.allocate.budget`). Nothing is frozen before the last pruning:
the next optimizer step moves a gate away from zero again, so a component whose score grows comes
back. After the last pruning the gates of what was dropped are set to zero after every step, because
momentum would move them. At the end the dropped ranks are removed, which leaves a plain LoRA. No
parameter changes its shape before, so optimizer state, several processes and checkpoints need no
special care.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from rankwright.core.fields import check_field, is_count
from rankwright.core.part_registry import register_part
from rankwright.core.pruning_window import pruning_window
from rankwright.core.run import Run
from rankwright.core.slots import Layer, Procedure, ProcedureState, Slots
from rankwright.errors import MethodError
from rankwright.layers.gated import (
    GatedLoRA,
    check_alone_on_gates,
    gated_factors,
    prune,
    rank_metrics,
)
from rankwright.peft_layers.layers import adapted_layers, factor_parameters
from rankwright.procedures.allocate.budget import Curve, pruned_count
from rankwright.procedures.allocate.scores import Components, Score, SensitivityScore, ShareScore
from rankwright.procedures.allocate.selection import keep_highest

logger = logging.getLogger(__name__)

ScoreName = Literal["share", "sensitivity"]


@register_part("allocate")
@dataclass(frozen=True, kw_only=True)
class Allocate(Procedure):
    """Pruning of the ranks with the lowest scores of all layers, down to a budget.

    Attributes:
        keep: Share of all ranks that is left in the end, in (0, 1]; 2/3.
        score: "share" for the share of a layer's update (DoRA-dynamic), or "sensitivity" for the
            sensitivity of the loss times its uncertainty (AdaLoRA).
        curve: "cubic_pruned": the number pruned grows as u^3, most of it late (DoRA-dynamic);
            "cubic_kept": the number still to be pruned falls as (1 - u)^3 (AdaLoRA).
        warm: Share of the optimizer steps before the first pruning, in [0, 1).
        cool: Share of the optimizer steps after the last pruning, in [0, 1).
        every: Steps between two prunings; None for a twentieth of the steps that prune (ours).
        beta: Weight of the past in the average of the scores, in [0, 1).
        beta2: With "sensitivity", the same for the average of the uncertainty.
        least_rank: Ranks that every layer keeps, at least 0.
        reference_rounding: Whether the phases are computed as DoRA-dynamic's code does, in floating
            point; False (ours) rounds them to the nearest step.
    """

    keep: float = 2 / 3
    score: ScoreName = "share"
    curve: Curve = "cubic_pruned"
    warm: float = 0.15
    cool: float = 0.5
    every: int | None = None
    beta: float = 0.9
    beta2: float = 0.85
    least_rank: int = 0
    reference_rounding: bool = False

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            MethodError: A field is out of its range.
        """
        scores, curves = get_args(ScoreName), get_args(Curve)
        for name, holds, expected in (
            ("keep", 0 < self.keep <= 1, "a share in (0, 1]"),
            ("score", self.score in scores, " or ".join(scores)),
            ("curve", self.curve in curves, " or ".join(curves)),
            ("warm", 0 <= self.warm < 1, "a share in [0, 1)"),
            ("cool", 0 <= self.cool < 1 - self.warm, "a share in [0, 1), below 1 - warm"),
            ("every", self.every is None or is_count(self.every), "an integer >= 1, or None"),
            ("beta", 0 <= self.beta < 1, "a number in [0, 1)"),
            ("beta2", 0 <= self.beta2 < 1, "a number in [0, 1)"),
            ("least_rank", self.least_rank >= 0, "an integer of at least 0"),
        ):
            check_field(self, name, holds, expected)

    def layer(self) -> Layer:
        """See `Part.layer`: ranks with gates."""
        return GatedLoRA()

    def check(self, slots: Slots) -> None:
        """See `Part.check`: a gate of zero has to close a rank."""
        check_alone_on_gates(self, slots)
        layer = slots.layer
        if isinstance(layer, GatedLoRA) and (layer.gate_map, layer.gate_per) != (
            "identity",
            "rank",
        ):
            raise MethodError(
                f'allocate sets gates to zero, and gate_map="{layer.gate_map}" with '
                f'gate_per="{layer.gate_per}" has no gate per rank that is zero then; use '
                'gate_map="identity" and gate_per="rank"'
            )

    def start(self, run: Run) -> AllocateState:
        """See `Procedure.start`.

        Raises:
            MethodError: The layers have no gates.
        """
        return AllocateState(run, self)


class AllocateState(ProcedureState):
    """The allocation of ranks in one run.

    Attributes:
        kept: Whether each rank is kept, (r,) by layer name; empty before the last pruning.
    """

    needs = frozenset({"after_step"})

    def __init__(self, run: Run, settings: Allocate) -> None:
        super().__init__(run)
        self.settings = settings
        self.kept: dict[str, Tensor] = {}
        factors = gated_factors(run.layers, run.adapter_name)
        self._layers = {
            name: Components(*factor_parameters(name, layer, run.adapter_name), factors[name].gate)
            for name, layer in run.layers.items()
        }
        self._score = _score(settings, self._layers)
        self._saved_phases: dict[str, int] = {}

    # Events --------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Find the steps that prune; on resumption compare with those of the checkpoint.

        Raises:
            MethodError: No step prunes, or the checkpoint prunes in other steps.
        """
        settings = self.settings
        self._window = pruning_window(
            self.run.total_steps,
            settings.warm,
            settings.cool,
            settings.every,
            reference_rounding=settings.reference_rounding,
        )
        if self._saved_phases not in ({}, self._phases()):
            raise MethodError(
                f"this checkpoint cannot be resumed: its pruning has {self._saved_phases}, that of "
                f"this run {self._phases()}; resume with the same number of steps and settings"
            )
        self._measure()

    def after_step(self) -> None:
        """Average the scores, and set the gates of the lowest to zero where this step prunes."""
        k = self._window.position(self.run.step + 1)
        if self.kept:
            self._close(self.kept)
        else:
            last = k is not None and k >= self._window.length
            if not last or self._score.counts_last:
                self._score.update()
            if k is not None and self._window.is_event(k):
                self._prune(k)
        self._measure()

    def _prune(self, k: int) -> None:
        pruned = self._pruned_last()
        if pruned:
            pruned = pruned_count(self.settings.curve, pruned, k, self._window.length)
        kept = keep_highest(self._score.values(), pruned, self.settings.least_rank)
        self._close(kept)
        if k == self._window.length:
            self.kept = kept
            logger.info("ranks kept: %s", {name: int(mask.sum()) for name, mask in kept.items()})

    @torch.no_grad()
    def _close(self, kept: Mapping[str, Tensor]) -> None:
        for name, mask in kept.items():
            self._layers[name].c.mul_(mask)

    def _pruned_last(self) -> int:
        """Return how many ranks are pruned in the end."""
        total = sum(len(part.c) for part in self._layers.values())
        return total - round(self.settings.keep * total)

    def end(self) -> None:
        """Leave a plain LoRA of the ranks kept."""
        prune(self.run.model, self.run.adapter_name)
        self.run.layers = adapted_layers(self.run.model)

    # State ---------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Scores, ranks kept, and the steps that prune; gates are in the state of the layers."""
        kept = {name: mask.tolist() for name, mask in self.kept.items()}
        return {"score": self._score.state_dict(), "kept": kept, "phases": self._phases()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore; `begin` compares the steps that prune."""
        self._score.load_state_dict(state["score"])
        self.kept = {
            name: torch.tensor(mask, device=self._layers[name].c.device)
            for name, mask in state["kept"].items()
        }
        self._saved_phases = dict(state["phases"])

    def _phases(self) -> dict[str, Any]:
        window = self._window
        return {"start": window.start, "length": window.length, "every": window.every}

    # Metrics -------------------------------------------------------------------------------------

    def _measure(self) -> None:
        self.run.metrics |= rank_metrics(self.run.layers, self.run.adapter_name)


def _score(settings: Allocate, layers: Mapping[str, Components]) -> Score:
    if settings.score == "share":
        return ShareScore(layers, settings.beta)
    return SensitivityScore(layers, settings.beta, settings.beta2)
