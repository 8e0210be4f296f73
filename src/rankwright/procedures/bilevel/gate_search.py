"""Bilevel search over gates, then a selection by them, then retraining of what was kept.

"layers" keeps the layers with the largest gates: `ceil(keep N)` of the N layers of each block, or
of the whole model (DiffoRA, arXiv 2502.08905). "ranks" keeps the ranks whose gate is at least
`threshold` times the mean gate of the layer (AutoLoRA, arXiv 2403.09113). Retraining has gates of 1
and 0, and ranks whose gate is 0 are dropped at its end.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from rankwright.core.fields import check_field
from rankwright.core.part_registry import register_part
from rankwright.core.run import Run
from rankwright.core.slots import Layer
from rankwright.errors import MethodError
from rankwright.layers.gated import GatedFactor, GatedLoRA, gated_factors, prune
from rankwright.peft_layers.layers import adapted_layers
from rankwright.peft_layers.rank_patterns import name_targets
from rankwright.procedures.bilevel.bilevel import Bilevel, BilevelState
from rankwright.procedures.chain.selection import groups

Selects = Literal["layers", "ranks"]
Scope = Literal["block", "model"]

GATES = r"\.gate$"
TIE = 1e-6  # relative: gates that have not moved are equal to rounding, and none is below the mean

logger = logging.getLogger(__name__)


@register_part("gate_search")
@dataclass(frozen=True)
class GateSearch(Bilevel):
    """Search over gates on held-out rows, selection by them, retraining of what was kept.

    Attributes:
        upper: Regular expression for the names of the upper parameters: the gates.
        warmup: Share of the search's steps before the first upper step, in [0, 1); 0.1 (ours):
            while B = 0 gates have no gradient.
        selects: "layers" to keep whole layers, "ranks" to keep single ranks.
        keep: Share of the layers to keep with "layers", in (0, 1].
        scope: Whether "layers" compares the layers within each "block" or in the whole "model".
        threshold: With "ranks", multiple of the layer's mean gate below which a rank is dropped.
    """

    upper: str = GATES
    warmup: float = 0.1
    selects: Selects = "layers"
    keep: float = 0.5
    scope: Scope = "block"
    threshold: float = 1.0

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            MethodError: A field is out of its range.
        """
        super().__post_init__()
        selects, scopes = get_args(Selects), get_args(Scope)
        for name, holds, expected in (
            ("retrain", self.retrain, "True: what was kept is trained after the selection"),
            ("selects", self.selects in selects, " or ".join(selects)),
            ("keep", 0 < self.keep <= 1, "a share in (0, 1]"),
            ("scope", self.scope in scopes, " or ".join(scopes)),
            ("threshold", self.threshold >= 0, "a number of at least 0"),
        ):
            check_field(self, name, holds, expected)

    def layer(self) -> Layer:
        """See `Part.layer`: a sigmoid gate a layer, or a softmax over its ranks."""
        if self.selects == "layers":
            return GatedLoRA(gate_init="zeros", gate_map="sigmoid", gate_per="layer")
        return GatedLoRA(gate_map="softmax", gate_total="rank")

    def start(self, run: Run) -> GateSearchState:
        """See `Bilevel.start`.

        Raises:
            MethodError: The layers have no gates, or nothing could be dropped.
        """
        return GateSearchState(run, self)


class GateSearchState(BilevelState):
    """A search over gates in one run.

    Attributes:
        kept: Whether each rank is kept, by module name; empty before the selection.
    """

    def __init__(self, run: Run, settings: GateSearch) -> None:
        super().__init__(run, settings)
        self.search = settings
        self.kept: dict[str, list[bool]] = {}
        self._check_candidates()

    def start_retraining(self) -> None:
        """Select; then see `BilevelState.start_retraining`."""
        self._select()
        super().start_retraining()

    def end(self) -> None:
        """Leave a plain LoRA of what was kept."""
        if self.kept:
            ranks = prune(self.run.model, self.run.adapter_name)
            name_targets(self.run.model, self.run.adapter_name)
            self.run.layers = adapted_layers(self.run.model)
            logger.info("ranks kept: %s", ranks)

    def state_dict(self) -> dict[str, Any]:
        """See `BilevelState.state_dict`."""
        return {**super().state_dict(), "kept": self.kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `BilevelState.load_state_dict`; the masks themselves are in the layers' state."""
        super().load_state_dict(state)
        if state["kept"]:
            self._keep(state["kept"])

    def _select(self) -> None:
        """Choose layers or ranks by their gates, which are 1 or 0 from now on."""
        factors = self._factors()
        gates = {name: factor.gates.detach() for name, factor in factors.items()}
        if self.search.selects == "ranks":
            kept = {name: choose_ranks(w, self.search.threshold) for name, w in gates.items()}
        else:
            kept = self._choose_layers({name: float(w.mean()) for name, w in gates.items()})
        if self.search.retrain_from == "warm":
            fold_gates(factors)  # or gates of 1 would change what the search has trained
        self._keep({n: mask.expand(factors[n].rank).tolist() for n, mask in kept.items()})
        self.run.metrics["kept_layers"] = sum(map(any, self.kept.values()))
        self.run.metrics["kept_ranks"] = sum(map(sum, self.kept.values()))

    def _choose_layers(self, gates: Mapping[str, float]) -> dict[str, Tensor]:
        """Whether each layer is kept, as one boolean a layer; log the choice.

        A gate and the product that it scales share one scale, (g, B) and (c g, B / c): a small gate
        on a large product may do more than a large one, so both are logged.
        """
        kept, margin = choose_layers(gates, self.search.keep, self.search.scope)
        self.run.metrics["gate_margin"] = margin
        for name, gate in gates.items():
            size, word = relative_update(self.run, name), "kept" if name in kept else "dropped"
            logger.info("%s: gate %.4f, |update| / |W| = %.2e, %s", name, gate, size, word)
        return {name: torch.tensor([name in kept]) for name in gates}

    def _keep(self, kept: Mapping[str, list[bool]]) -> None:
        self.kept = {name: list(mask) for name, mask in kept.items()}
        for name, factor in self._factors().items():
            factor.select(torch.tensor(self.kept[name]))

    def _factors(self) -> dict[str, GatedFactor]:
        return gated_factors(self.run.layers, self.run.adapter_name)

    def _check_candidates(self) -> None:
        search, names = self.search, [*self._factors()]
        alone = search.scope == "block" and len(groups(names)) == len(names)
        if search.selects == "layers" and search.keep < 1 and alone:
            raise MethodError(
                f'scope = "block" with keep = {search.keep:g}: every block has one adapted layer, '
                f"such as {names[0]}, so none would be dropped; adapt more modules of each block, "
                'or use scope = "model"'
            )


def choose_layers(gates: Mapping[str, float], keep: float, scope: Scope) -> tuple[set[str], float]:
    """Choose the layers with the largest gates; the first of equal ones wins.

    Args:
        gates: Gate of every layer by module name, in the order of the model.
        keep: Share of the candidates to keep, in (0, 1]; rounded up.
        scope: "block" to choose within each numbered block, "model" among all layers.

    Returns:
        Names of the layers to keep, and the margin: the smallest gate kept less the largest gate
        dropped among candidates that compete, the smallest of all blocks; infinite if nothing is
        dropped.
    """
    candidates = groups(gates).values() if scope == "block" else [[*gates]]
    kept: set[str] = set()
    margins = [math.inf]
    for names in candidates:
        ranked = sorted(names, key=lambda name: -gates[name])  # stable: ties keep their order
        count = max(1, math.ceil(keep * len(names) - 1e-9))  # 1/3 of 33 is 11, not 12
        kept.update(ranked[:count])
        if count < len(names):
            margins.append(gates[ranked[count - 1]] - gates[ranked[count]])
    return kept, min(margins)


def choose_ranks(gates: Tensor, threshold: float) -> Tensor:
    """Choose the ranks of a layer whose gate is at least `threshold` times the layer's mean.

    Args:
        gates: (r,).
        threshold: Multiple of the mean, at least 0.

    Returns:
        Booleans, (r,).
    """
    return gates >= threshold * gates.mean() * (1 - TIE)


@torch.no_grad()
def fold_gates(factors: Mapping[str, GatedFactor]) -> None:
    """Multiply the gates into A, so that gates of 1 leave the function as it is."""
    for factor in factors.values():
        factor.live.copy_(factor.weight)


@torch.no_grad()
def relative_update(run: Run, name: str) -> float:
    """Return |s B diag(w) A|_F / |W|_F of a layer, from r x r products; NaN if W is quantised."""
    layer = run.layers[name]
    A, B = (factors[run.adapter_name].weight.double() for factors in (layer.lora_A, layer.lora_B))
    square = ((A @ A.T) * (B.T @ B)).sum().clamp_min(0)
    W = layer.get_base_layer().weight
    norm = torch.linalg.vector_norm(W) if W.is_floating_point() else torch.tensor(torch.nan)
    return float(layer.scaling[run.adapter_name] * square.sqrt() / norm)
