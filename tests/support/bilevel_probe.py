"""A procedure that evaluates every mode of the hypergradient around the same lower step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rankwright.core.loop import Loop, constant_schedule
from rankwright.core.method import Method
from rankwright.core.run import Run
from rankwright.core.slots import Procedure, ProcedureState
from rankwright.procedures.bilevel.hypergradient import MODES, Hypergradient
from rankwright.procedures.bilevel.jacobians import update_jacobian

XI = 0.05
"""Learning rate of the lower step of the golden files."""

Parameters = Mapping[str, nn.Parameter]


class ProbeState(ProcedureState):
    """The estimates of all modes, by mode.

    Attributes:
        v: Gradient of the upper loss at V1, one tensor a lower parameter.
        w: Direction of the implicit term.
        jacobian: Jacobian of the optimizer's update.
    """

    replays = True

    def __init__(self, run: Run, probe: Probe) -> None:
        super().__init__(run)
        self.lower, self.upper = [*probe.lower.values()], [*probe.upper.values()]
        self.upper_ids = {id(p) for p in self.upper}

    def role(self, name: str) -> str:
        return "upper" if id(self.run.model.get_parameter(name)) in self.upper_ids else "lower"

    def begin(self) -> None:
        self.engines = {m: Hypergradient(self.run, self.lower, self.upper, m) for m in MODES}

    def after_backward(self) -> None:
        self.steps = {mode: engine.record() for mode, engine in self.engines.items()}
        for p in self.upper:
            p.grad = None

    def after_step(self) -> None:
        batches = self.run.held_out(0)
        self.v = self.run.gradients(self.lower, batches)
        held = [p.detach().clone() for p in (*self.lower, *self.upper)]
        self.estimates = {m: e(self.steps[m], batches) for m, e in self.engines.items()}
        assert all(map(torch.equal, held, (*self.lower, *self.upper)))
        step, run = self.steps["exact"], self.run
        self.w = self.engines["exact"].direction(step, self.v)
        jacobian, group = update_jacobian(run.optimizer), run.optimizer.param_groups[0]
        states = [run.optimizer_state()[p] for p in self.lower]
        self.jacobian = jacobian(group, states, [p.grad for p in self.lower], step.before)


@dataclass(frozen=True)
class Probe(Procedure):
    """Evaluates the modes around one step.

    Attributes:
        lower: Lower parameters by their golden names.
        upper: Upper parameters by their golden names.
    """

    lower: Parameters
    upper: Parameters

    def start(self, run: Run) -> ProbeState:
        return ProbeState(run, self)


def adamw(groups: list[dict[str, Any]], g: Mapping[str, Tensor], lower: Parameters) -> Any:
    """The golden files' AdamW, with three steps behind it."""
    groups = [{**group, "weight_decay": 0.01} for group in groups]
    adam = torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-8)
    for name, parameter in lower.items():
        adam.state[parameter] = {
            "step": torch.tensor(3.0),
            "exp_avg": g[f"adam.exp_avg.{name}"].clone(),
            "exp_avg_sq": g[f"adam.exp_avg_sq.{name}"].clone(),
        }
    return adam


def probed_step(
    model: Any, method: Method, g: Mapping[str, Tensor], kind: str, lower: Parameters
) -> Loop:
    """One lower step of a method with a `Probe`, on the batches of a golden file.

    Args:
        model: The adapted model, at the golden start.
        method: A method whose procedure is a `Probe`.
        g: The golden file.
        kind: "sgd" or "adam".
        lower: Lower parameters by their golden names.
    """

    def optimizer(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups, lr=XI) if kind == "sgd" else adamw(groups, g, lower)

    def loss(model: nn.Module, batch: Any) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(model(x), y)

    run = Loop(
        model,
        method,
        total_steps=1,
        lr=XI,
        optimizer=optimizer,
        loss=loss,
        held_out=lambda _: (g["va.x"], g["va.y"]),
        schedule=constant_schedule,
    )
    run.train_step((g["tr.x"], g["tr.y"]))
    return run
