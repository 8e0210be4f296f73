"""The hypergradient and the whole of search and retraining against `data/bidora`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bilevel_probe import XI, Probe, probed_step
from bilevel_toy import FIELDS, LOWER, UPPER, Notes, named, parameter, toy
from rankwright.core.loop import Loop
from rankwright.core.method import Method
from rankwright.core.slots import Procedure, Slots
from rankwright.layers import Dora
from rankwright.methods import BiDoRA
from rankwright.penalties import Gram
from rankwright.procedures.bilevel.hypergradient import MODES

DATA = Path(__file__).parent / "data" / "bidora"
R0 = 0.01


def close(actual: Tensor, expected: Tensor, rtol: float) -> None:
    atol = rtol * float(expected.abs().max())
    torch.testing.assert_close(actual, expected.view_as(actual), rtol=rtol, atol=atol)


def start(method: Method, g: dict[str, Tensor]) -> torch.nn.Module:
    """A model with the base weights and start values of a golden file."""
    base = toy()
    with torch.no_grad():
        base.l0.weight.copy_(g["l0.W"])
        base.l1.weight.copy_(g["l1.W"])
    model = method.apply(base)
    with torch.no_grad():
        for name in (*LOWER, *UPPER):
            parameter(model, name).copy_(g[f"init.{name}"])
    return model


# One step ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Probed(Method):
    name: ClassVar[str] = "probed"

    norm_grad: str = "full"
    probe: Any = None

    def slots(self) -> Slots:
        procedure = self.probe or Procedure()
        return Slots(layer=Dora(self.norm_grad), penalty=Gram(1e-2), procedure=procedure)


def one_step(g: dict[str, Tensor], kind: str, norm_grad: str) -> Loop:
    method = Probed(norm_grad=norm_grad, **FIELDS)
    model = start(method, g)
    lower = {name: parameter(model, name) for name in LOWER}
    upper = {name: parameter(model, name) for name in UPPER}
    return probed_step(model, replace(method, probe=Probe(lower, upper)), g, kind, lower)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_every_mode_of_the_hypergradient(kind: str) -> None:
    g = load_file(DATA / "hypergrad_ce.safetensors")
    run = one_step(g, kind, "full")
    probe = run.procedure
    for index, name in enumerate(LOWER):
        close(parameter(run.model, name).detach(), g[f"{kind}.step1.{name}"], 1e-12)
        close(probe.v[index], g[f"{kind}.v.{name}"], 1e-12)
        if kind == "adam":
            close(probe.jacobian[index], g[f"adam.jac_diag.{name}"], 1e-12)
    columns = {mode: mode for mode in MODES} | {"first_order": "direct"}
    for mode, column in columns.items():
        for index, name in enumerate(UPPER):
            close(probe.estimates[mode].gradient[index], g[f"{kind}.{column}.{name}"], 1e-11)
    norm = torch.cat([w.flatten() for w in probe.w]).norm()
    close(R0 / norm * XI, g[f"{kind}.fd_eps"], 1e-12)  # the note's w leaves xi out
    norm = torch.cat([v.flatten() for v in probe.v]).norm()
    close(R0 / (norm + 1e-15), g[f"{kind}.betty_eps"], 1e-12)
    assert probe.estimates["exact"].upper_loss == pytest.approx(float(g[f"{kind}.loss_va"]))


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_detached_norm(kind: str) -> None:
    g = load_file(DATA / "hypergrad_ce.safetensors")
    run = one_step(g, kind, "detached")
    probe = run.procedure
    for index, name in enumerate(LOWER):
        close(parameter(run.model, name).detach(), g[f"{kind}.detached.step1.{name}"], 1e-12)
        close(probe.v[index], g[f"{kind}.detached.v.{name}"], 1e-12)
    for mode, column in {"exact": "exact", "first_order": "direct"}.items():
        for index, name in enumerate(UPPER):
            expected = g[f"{kind}.detached.{column}.{name}"]
            close(probe.estimates[mode].gradient[index], expected, 1e-11)


# Search and retraining ---------------------------------------------------------------------------


class ReferenceAdamW(torch.optim.Optimizer):
    """The reference's AdamW: eps outside the bias correction, decay after the step."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {"betas": (0.9, 0.98), "eps": 1e-6})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            (beta1, beta2), lr = group["betas"], group["lr"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                t = state["step"] = state.get("step", 0) + 1
                mean = state.setdefault("exp_avg", torch.zeros_like(p))
                square = state.setdefault("exp_avg_sq", torch.zeros_like(p))
                mean.mul_(beta1).add_(p.grad, alpha=1 - beta1)
                square.mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
                rate = lr * (1 - beta2**t) ** 0.5 / (1 - beta1**t)
                p.addcdiv_(mean, square.sqrt().add_(group["eps"]), value=-rate)
                p.add_(p, alpha=-lr * group["weight_decay"])


def reference_schedule(steps: int) -> Any:
    """Linear decay; the search, which has six steps, is warmed up for one."""
    warm_up = 1 if steps == 6 else 0
    return lambda k: k / warm_up if k < warm_up else (steps - k) / (steps - warm_up)


def test_search_and_retraining() -> None:
    g = load_file(DATA / "search_retrain.safetensors")
    method = BiDoRA(
        **{**FIELDS, "lora_alpha": 2},
        hypergradient="betty",
        upper_weight_decay=0.1,
        gram_weight=1e-2,
        search_fraction=0.6,
        retrain_lr_ratio=3.0,
    )
    run = Notes(
        start(method, g),
        method,
        total_steps=10,
        lr=5e-3,
        schedule=reference_schedule,
        optimizer=lambda groups: ReferenceAdamW([{**g, "weight_decay": 0.1} for g in groups]),
        held_out=lambda k: (g[f"va{k + 1}.x"], g[f"va{k + 1}.y"]),
    )
    for t in range(1, 7):
        run.train_step((g[f"tr{t}.x"], g[f"tr{t}.y"]))
        for name in UPPER:
            close(run.upper_gradients[-1][name], g[f"hypergrad{t}.{name}"], 1e-10)
            close(parameter(run.model, name).detach(), g[f"step{t}.{name}"], 1e-12)
        for name in LOWER:
            expected = g[f"step{t}.{name}"] if t < 6 else g[f"init.{name}"]  # 6: back to the start
            close(parameter(run.model, name).detach(), expected, 1e-12)
    best = dict(named(run.model, UPPER))
    for t in range(1, 5):
        run.train_step((g[f"re{t}.x"], g[f"re{t}.y"]))
        for name in (*LOWER, *UPPER):
            close(parameter(run.model, name).detach(), g[f"retrain{t}.{name}"], 1e-11)
    assert all(torch.equal(best[name], value) for name, value in named(run.model, UPPER))
    assert len(run.upper_gradients) == 6
    run.finish()
