"""Weak ranks overwritten by earlier copies of strong ones: BeamLoRA's pruning and expansion.

The gates w = r softmax(theta / tau) of each layer are the importance of its ranks. Every T steps
the ranks outside a global top-p mass are overwritten by the strongest ranks of the same layer, in
the state of T / 2 - 1 steps before:

    A[i, :] <- A_past[j, :],   B[:, i] <- B_past[:, j]
    theta_i, theta_j <- (theta_i + theta_j) / 2

A copy of the present rank would get the gradient of its source and never part from it. The mass
grows from p_0 to 1, so that pruning fades away:

    p(t) = 1 - (1 - p_0) (1 + cos(pi (t - 1) / T_end)) / 2

The rank does not change. arXiv 2502.13604; gccnlp/BeamLoRA@2610c6a.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from rankwright.core.fields import check_field
from rankwright.core.part_registry import register_part
from rankwright.core.run import Run
from rankwright.core.slots import Layer, Procedure, ProcedureState, Slots
from rankwright.errors import MethodError
from rankwright.layers.gated import GatedFactor, GatedLoRA, check_alone_on_gates, gated_factors
from rankwright.peft_layers.layers import factor_parameters

Pairing = Literal["order", "random"]
Moments = Literal["copy", "zero", "keep"]
Gates = Literal["average", "split"]

EVENTS = 12
"""Events of a run whose settings do not say how many steps lie between them."""

ADAM = ("exp_avg", "exp_avg_sq")


@register_part("beam")
@dataclass(frozen=True, kw_only=True)
class Beam(Procedure):
    """Replacement of the weakest ranks by earlier copies of the strongest of the same layer.

    "Published" is the code at gccnlp/BeamLoRA@2610c6a.

    Attributes:
        every: T, steps between two events, even and at least 4; None for a twelfth of the run, at
            least 4 (published: a twelfth).
        top_p: p_0, the share of the mass of all gates that is kept at the start, in (0, 1]; 0.95
            (published); 1 for no event.
        until: Share of the steps after which all of the mass is kept, in (0, 1]; 2/3 (published).
        pairing: "order": the strongest rank takes the place of the weakest (ours); "random": a
            seeded permutation, the same in all processes (published, unseeded).
        moments: Adam's moments of a replaced rank: those of its source at the same time ("copy",
            the paper's intention), "zero", or those of the rank replaced ("keep": what the
            published code does, since its copy has no effect).
        gates: theta of a rank and its copy: the "average" of both (published), or that of the
            source less tau ln 2 ("split", ours), which shares its mass between them.
    """

    every: int | None = None
    top_p: float = 0.95
    until: float = 2 / 3
    pairing: Pairing = "order"
    moments: Moments = "copy"
    gates: Gates = "average"

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            MethodError: A field is out of its range.
        """
        even = self.every is None or (self.every >= 4 and self.every % 2 == 0)
        for name, holds, expected in (
            ("every", even, "an even integer of at least 4, or None"),
            ("top_p", 0 < self.top_p <= 1, "a share in (0, 1]"),
            ("until", 0 < self.until <= 1, "a share in (0, 1]"),
            ("pairing", self.pairing in get_args(Pairing), " or ".join(get_args(Pairing))),
            ("moments", self.moments in get_args(Moments), " or ".join(get_args(Moments))),
            ("gates", self.gates in get_args(Gates), " or ".join(get_args(Gates))),
        ):
            check_field(self, name, holds, expected)

    def layer(self) -> Layer:
        """See `Part.layer`: gates that compete."""
        return GatedLoRA(gate_init="zeros", gate_map="softmax", gate_total="rank", temperature=0.05)

    def check(self, slots: Slots) -> None:
        """See `Part.check`: the gates are shares of a mass, and the optimizer is Adam's kind."""
        check_alone_on_gates(self, slots)
        layer, optimizer = slots.layer, slots.optimizer
        if isinstance(layer, GatedLoRA) and layer.gate_map != "softmax":
            raise MethodError(
                f'beam ranks gates by their share of a fixed sum, and gate_map="{layer.gate_map}" '
                'has none; use gate_map="softmax"'
            )
        if optimizer is not None and not optimizer.elementwise:
            raise MethodError(
                "beam replaces single ranks and their moments, and this optimizer has none for an "
                "entry of a factor; use the engine's AdamW"
            )

    def steps_between(self, total_steps: int) -> int:
        """Return T for a run of `total_steps`.

        Raises:
            MethodError: `every` leaves no room for an event. A run under 8 steps has none by
                default.
        """
        every = max(4, total_steps // EVENTS // 2 * 2) if self.every is None else self.every
        if self.every is not None and self.top_p < 1 and total_steps < 2 * every:
            raise MethodError(
                f"{total_steps} optimizer steps have no room for an event after {every} steps and "
                "as many after it: train for more steps, lower every, or use top_p = 1 for none"
            )
        return every

    def mass(self, step: int, total_steps: int) -> float:
        """Return p(t), the share of the mass that is kept after the optimizer step numbered t.

        Args:
            step: t, from 1.
            total_steps: Steps of the run.
        """
        end = round(self.until * total_steps)
        if step - 1 > end:
            return 1.0
        return 1 - (1 - self.top_p) * (1 + math.cos(math.pi * (step - 1) / end)) / 2

    def start(self, run: Run) -> BeamState:
        """See `Procedure.start`.

        Raises:
            MethodError: The layers have no gates.
        """
        return BeamState(run, self)


class BeamState(ProcedureState):
    """The replacements of one run."""

    needs = frozenset({"after_step"})

    def __init__(self, run: Run, settings: Beam) -> None:
        super().__init__(run)
        self.settings = settings
        self._factors: dict[str, GatedFactor] = gated_factors(run.layers, run.adapter_name)
        self._pairs = {
            name: tuple(map(_parameter, factor_parameters(name, layer, run.adapter_name)))
            for name, layer in run.layers.items()
        }
        self._replaced = 0
        self._past: dict[str, list[Tensor]] = {}  # A, B and their moments, on the CPU
        self._saved_every = 0

    # Events --------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Find the steps of the events; on resumption compare with those of the checkpoint.

        Raises:
            MethodError: The run has no room for an event, or the checkpoint has other ones.
        """
        self._every = self.settings.steps_between(self.run.total_steps)
        if self.settings.top_p < 1 and not self._follows(self._every):
            self.run.say_once(
                f"{self.run.label} replaces no rank in {self.run.total_steps} optimizer steps: the "
                f"first event would be after {self._every}, with as many to follow"
            )
        if self._saved_every not in (0, self._every):
            raise MethodError(
                f"this checkpoint cannot be resumed: it replaces ranks every {self._saved_every} "
                f"steps, this run every {self._every}; resume with the same number of steps"
            )

    def after_step(self) -> None:
        """Store the past half a period before an event, and replace ranks at one."""
        if self.run.step == 0:
            self._check_optimizer()
        if self.settings.top_p == 1:
            return
        done, every = self.run.step, self._every
        if done % every and not done % (every // 2) and self._follows(done + every // 2):
            self._past = {name: self._present(name) for name in self._pairs}
        if not (done + 1) % every and self._follows(done + 1):
            self._replace(self.settings.mass(done + 1, self.run.total_steps))
            self._past = {}
        self.run.metrics["replaced_ranks"] = self._replaced  # so far

    def _follows(self, event: int) -> bool:
        """Whether there is an event after step number `event`: a period of steps is left."""
        return self.run.total_steps - event >= self._every

    @torch.no_grad()
    def _replace(self, mass: float) -> None:
        trained = {name: f for name, f in self._factors.items() if not f.is_fixed}
        gates = {name: factor.gates.detach() for name, factor in trained.items()}
        for name, slots in weakest(gates, mass).items():
            sources = self._permuted(name, strongest(gates[name], len(slots)))
            self._copy(name, slots, sources)
            self._replaced += len(slots)
        for factor in trained.values():
            moments = self.run.optimizer_state().get(factor.gate, {})
            for key in (key for key in ADAM if key in moments):  # none before an upper step
                moments[key].zero_()

    def _permuted(self, name: str, sources: Tensor) -> Tensor:
        """Return the sources, strongest first, in the order of the slots, weakest first."""
        if self.settings.pairing == "order":
            return sources
        draw = self.run.generator("beam", name, self.run.step)
        return sources[torch.randperm(len(sources), generator=draw).to(sources.device)]

    def _copy(self, name: str, slots: Tensor, sources: Tensor) -> None:
        factor = self._factors[name]
        tensors, past = self._tensors(name), self._past[name]
        kinds = len(tensors) if self.settings.moments == "copy" else 2
        for place, (tensor, before) in enumerate(zip(tensors[:kinds], past[:kinds], strict=True)):
            axis = place % 2  # A and its moments count ranks in rows, B in columns
            chosen = before.to(tensor.device).index_select(axis, sources)
            tensor.index_copy_(axis, slots, chosen)
        if self.settings.moments == "zero":
            for place, tensor in enumerate(tensors[2:]):
                tensor.index_fill_(place % 2, slots, 0.0)
        theta = factor.gate
        if self.settings.gates == "average":
            shared = (theta[slots] + theta[sources]) / 2
        else:
            shared = theta[sources] - factor.temperature * math.log(2)
        theta[slots] = shared
        theta[sources] = shared

    # State ---------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The past of the factors, while an event waits for it, and the length of a period."""
        return {"past": dict(self._past), "every": self._every, "replaced": self._replaced}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore; `begin` compares the periods."""
        self._past = {name: [t.cpu() for t in past] for name, past in state["past"].items()}
        self._saved_every, self._replaced = state["every"], state["replaced"]

    def _tensors(self, name: str) -> list[Tensor]:
        """A, B, then their first and their second moments."""
        pair, state = self._pairs[name], self.run.optimizer_state()
        return [*pair, *(state[p][key] for key in ADAM for p in pair)]

    def _present(self, name: str) -> list[Tensor]:
        return [tensor.detach().to("cpu", copy=True) for tensor in self._tensors(name)]

    def _check_optimizer(self) -> None:
        state = self.run.optimizer_state()
        parameters = [p for pair in self._pairs.values() for p in pair]
        if not all(key in state.get(p, {}) for p in parameters for key in ADAM):
            raise MethodError(
                f"{self.run.label} copies Adam's moments ({', '.join(ADAM)}) with the ranks, and "
                f"{type(self.run.optimizer).__name__} keeps none; use AdamW or Adam"
            )


def weakest(gates: Mapping[str, Tensor], mass: float) -> dict[str, Tensor]:
    """Return the ranks outside the top-p mass of all layers, weakest first.

    Gates are sorted downwards and added up; the first whose sum exceeds `mass` times the sum of all
    is the first that is pruned (published; nucleus sampling would keep it). A layer loses at most
    half of its ranks, or a source could be replaced itself.

    Args:
        gates: (r,) by layer name, of sum r.
        mass: p; at 1 nothing is pruned, whatever the rounding.

    Returns:
        Indices by layer name, int64, for layers that lose a rank.
    """
    if mass >= 1:
        return {}
    names = sorted(gates)
    flat = torch.cat([gates[name] for name in names])
    order = flat.argsort(descending=True, stable=True)
    outside = flat[order].cumsum(0) > mass * len(flat)
    pruned = torch.zeros_like(flat, dtype=torch.bool)
    pruned[order[outside]] = True
    found = {}
    for name, mask in zip(names, torch.split(pruned, [len(gates[n]) for n in names]), strict=True):
        upwards = gates[name].argsort(stable=True)
        slots = upwards[mask[upwards]][: len(mask) // 2]
        if len(slots):
            found[name] = slots
    return {name: found[name] for name in gates if name in found}


def strongest(gates: Tensor, count: int) -> Tensor:
    """Return the indices of the `count` largest gates, strongest first, int64."""
    return gates.argsort(descending=True, stable=True)[:count]


def _parameter(tensor: Tensor) -> nn.Parameter:
    assert isinstance(tensor, nn.Parameter)
    return tensor
