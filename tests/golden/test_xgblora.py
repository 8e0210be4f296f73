"""The chain against `data/xgblora`: a public implementation's trajectories, and derived figures."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from chain_toy import Tanh, chained, mean_square
from rankwright.core.loop import Loop, constant_schedule
from rankwright.layers.stacked.layer import stacks
from rankwright.procedures.chain.chain import Chain

DATA = Path(__file__).parent / "data" / "xgblora"
RTOL = 1e-9  # the notes' tolerance in float64


class Recorder(Loop):
    """A loop that keeps the live factors and gradients of every step, by layer number."""

    def fire(self, event: str) -> None:
        if event == "after_step":
            live = {n.split(".layers.")[1]: s for n, s in self.procedure.boosters.stacks.items()}
            self.seen = {
                key: value.detach().clone()
                for number, stack in live.items()
                if stack.A.live.grad is not None
                for key, value in (
                    (f"A.{number}", stack.A.live),
                    (f"B.{number}", stack.B.live),
                    (f"gradA.{number}", stack.A.live.grad),
                    (f"gradB.{number}", stack.B.live.grad),
                )
            }
        super().fire(event)


def close(actual: Tensor, expected: Tensor) -> None:
    atol = RTOL * max(float(expected.abs().max()), 1e-30)
    torch.testing.assert_close(actual, expected, rtol=RTOL, atol=atol)


def stored_draw(g: dict[str, Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    def basis(run: Any, round_: int, name: str, layer: Any) -> tuple[Tensor, Tensor]:
        A = g[f"booster{round_}.A_init.{name.split('.layers.')[1]}"]
        return A, A.new_zeros(layer.out_features, 1)

    return basis


def stored_selection(g: dict[str, Tensor]) -> Callable[..., list[str]]:
    def policy(draw: Any, round_: int, groups: Sequence[str], count: int) -> list[str]:
        return [group for group, on in zip(groups, g["selected"][round_], strict=True) if on]

    return policy


@pytest.mark.parametrize(
    ("file", "rounds", "alpha", "optimizer", "lr", "decay"),
    [
        ("boost_sgd_all", 3, 4, torch.optim.SGD, 0.3, 0.0),
        ("boost_adamw_subset", 4, 2, torch.optim.AdamW, 0.02, 0.01),
    ],
)
@pytest.mark.parametrize("mode", ["history", "fold"])
def test_trajectory(
    mode: Any, file: str, rounds: int, alpha: float, optimizer: Any, lr: float, decay: float
) -> None:
    g = load_file(DATA / f"{file}.safetensors")
    steps, layers = len(g["loss"]), g["selected"].shape[1]
    weights = [g[f"W0.{i}"] for i in range(layers)]
    chain = Chain(
        rounds=rounds,
        selection=stored_selection(g),
        round_basis=stored_draw(g),
        mode=mode,
        rank_cap=1,
    )
    model, method = chained(Tanh(weights), chain, r=1, lora_alpha=alpha)
    run = Recorder(
        model,
        method,
        total_steps=steps,
        lr=lr,
        weight_decay=decay,
        optimizer=optimizer,
        loss=mean_square,
        schedule=constant_schedule,
    )
    for step in range(steps):
        loss = run.train_step((g["x"][step], g["y"][step]))
        close(torch.tensor(loss, dtype=torch.float64), g["loss"][step])
        for key, value in run.seen.items():
            expected = g.get(f"step{step}.{key}")
            if expected is not None:
                close(value, expected)
        if (step + 1) % (steps // rounds) == 0:
            round_ = (step + 1) // (steps // rounds) - 1
            for i, layer in enumerate(run.layers.values()):
                merged = weights[i] + layer.get_delta_weight("default")
                close(merged, g[f"merged{round_}.W.{i}"])
    run.finish()
    close(model(g["x"][-1]).detach(), g["final_pred_last_batch"])
    for i, stack in enumerate(run.procedure.boosters.stacks.values()):
        if f"concat.A.{i}" in g:
            close(stack.A.weight.detach(), g[f"concat.A.{i}"])
            close(stack.B.weight.detach(), g[f"concat.B.{i}"])
        else:
            assert stack.A.finished == 0


def test_one_step_a_round() -> None:
    g = load_file(DATA / "kappa1_closed_form.safetensors")
    basis = (g["A"], g["A"].new_zeros(5, 1))
    chain = Chain(rounds=1, round_basis=lambda *_: basis)
    model, method = chained(Tanh([g["W"]]), chain, r=1, lora_alpha=2)
    run = Loop(
        model,
        method,
        total_steps=1,
        lr=0.1,
        optimizer=torch.optim.SGD,
        loss=mean_square,
        schedule=constant_schedule,
    )
    loss = run.train_step((g["X"], g["Y"]))
    close(torch.tensor(loss, dtype=torch.float64), g["loss"])
    (layer,) = run.layers.values()
    close(g["W"] + layer.get_delta_weight("default"), g["W_merged"])


def test_exact_boosters_are_the_singular_values() -> None:
    g = load_file(DATA / "greedy_quadratic.safetensors")
    M, rounds, kappa = g["M"], 3, 500
    chain = Chain(rounds=rounds)
    model, method = chained(Tanh([torch.zeros_like(M)]), chain, r=1, lora_alpha=1)
    eye = torch.eye(5, dtype=torch.float64)

    def loss(model: nn.Module, target: Tensor) -> Tensor:
        return (model(eye).T - target).square().sum() / 2

    run = Loop(
        model,
        method,
        total_steps=rounds * kappa,
        lr=0.1,
        optimizer=torch.optim.SGD,
        loss=loss,
        schedule=constant_schedule,
    )
    for round_ in range(rounds):
        for _ in range(kappa):
            run.train_step(M)
        residual = 2 * loss(model, M).detach()
        close(residual, g["residual_sq"][round_ + 1])
    (layer,) = run.layers.values()
    close(layer.get_delta_weight("default"), g["best_rank_T"])


@torch.no_grad()
def test_fold_rounds_a_bf16_weight_once() -> None:
    g = load_file(DATA / "bf16_merge.safetensors")
    model, _ = chained(Tanh([g["W0"]]), Chain(), r=1, lora_alpha=2)
    (stack,) = stacks({"0": model.base_model.model.layers[0]}, "default").values()
    for A, B in zip(g["A"], g["B"], strict=True):
        stack.start(A, B)
        stack.absorb(1.0)
    delta = stack.layer.get_delta_weight("default").double()
    update = g["exact"] - g["W0"].double()
    assert float((delta - update).norm() / update.norm()) < 1e-5

    stack.fold(60)
    working = stack.layer.base_layer.working
    unequal = working != g["rounded_once"]
    assert unequal.float().mean() <= 1e-3
    gap = (working.view(torch.int16).int() - g["rounded_once"].view(torch.int16).int()).abs()
    assert gap.max() <= 1
    assert (working != g["naive_bf16"]).float().mean() > 0.1
    assert torch.equal(stack.layer.get_base_layer().weight, g["W0"])
