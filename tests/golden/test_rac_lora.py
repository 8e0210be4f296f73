"""RAC-LoRA against `data/rac-lora`: a public implementation's trajectories and projections."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from chain_toy import Tanh, chained
from chain_trajectory import close, follow
from rankwright.core.loop import Loop, constant_schedule
from rankwright.procedures.chain.chain import Chain
from rankwright.procedures.chain.frozen import linear_rate, projection

DATA = Path(__file__).parent / "data" / "rac-lora"


@pytest.mark.parametrize(
    ("file", "options"),
    [
        (
            "rac_trainB_adamw",
            {
                "frozen": "A",
                "rounds": 3,
                "r": 2,
                "alpha": 4,
                "lr": 0.05,
                "optimizer": torch.optim.AdamW,
            },
        ),
        (
            "rac_trainA_sgd",
            {
                "frozen": "B",
                "rounds": 4,
                "r": 1,
                "alpha": 8,
                "lr": 0.5,
                "optimizer": torch.optim.SGD,
            },
        ),
    ],
)
@pytest.mark.parametrize("mode", ["history", "fold"])
def test_trajectory(mode: str, file: str, options: dict[str, Any]) -> None:
    g = load_file(DATA / f"{file}.safetensors")
    run = follow(g, mode=mode, rank_cap=1, schedule=constant_schedule, **options)
    for name in (f"{options['frozen']}.0", f"{options['frozen']}.1"):
        assert f"grad{name}" not in run.seen


def projected_descent(
    W: Tensor, frozen: Any, sketches: list[Tensor], alpha: float, gamma: float, loss: Any
) -> tuple[Loop, list[float]]:
    """One exact step a round from W; the objective before every step."""

    def basis(run: Any, round_: int, name: str, layer: Any) -> tuple[Tensor | None, Tensor | None]:
        S = sketches[round_]
        return (S, None) if frozen == "A" else (None, S)

    rounds, r = len(sketches), min(sketches[0].shape)
    chain = Chain(rounds=rounds, frozen=frozen, projected=True, round_basis=basis)
    model, method = chained(Tanh([W]), chain, r=r, lora_alpha=alpha)
    run = Loop(
        model,
        method,
        total_steps=rounds,
        lr=gamma,
        optimizer=torch.optim.SGD,
        loss=loss,
        schedule=constant_schedule,
    )
    return run, [run.train_step(None) for _ in range(rounds)]


@pytest.mark.parametrize("alpha", [4.0, 1.0])
def test_an_exact_step_is_the_projected_gradient_step(alpha: float) -> None:
    g = load_file(DATA / "sketched_gd.safetensors")
    X, Y = g["X"], g["Y"]
    gamma = 1 / torch.linalg.eigvalsh(X.T @ X / len(X)).max()

    def loss(model: nn.Module, _: Any) -> Tensor:
        return (model(X) - Y).square().sum() / (2 * len(X))

    for t, left in enumerate(g["is_left"].tolist()):
        side = "B" if left else "A"
        W, S, G = g[f"W{t}"], g[f"S{t}"], g[f"G{t}"]
        run, (before,) = projected_descent(W, side, [S], alpha, float(gamma), loss)
        (stack,) = run.procedure.boosters.stacks.values()
        close(before, g["f"][t])
        free = stack.A.history if left else stack.B.history
        close(free * stack.scaling / 2, g[f"factor{t}"])  # the file has s = 2
        close(W + stack.layer.get_delta_weight("default"), g[f"W{t + 1}"])
        H = projection(S, side)
        close(W - gamma * (H @ G if left else G @ H), g[f"W{t + 1}"])
        close(loss(run.model, None).detach(), g["f"][t + 1])


def test_fresh_draws_reach_the_optimum_and_one_draw_stalls() -> None:
    g = load_file(DATA / "toy_quadratic.safetensors")
    diagonal, b = g["diag"], g["b"]
    eye = torch.eye(3, dtype=torch.float64)
    least = -(b.square() / (4 * diagonal)).sum()
    L, mu = 2 * float(diagonal.max()), 2 * float(diagonal.min())

    def gap(model: nn.Module, _: Any) -> Tensor:
        w = model(eye).T.reshape(-1)
        return (diagonal * w.square()).sum() + (b * w).sum() - least

    sketches = list(g["S"])
    for drawn, expected, final in (
        (sketches, g["gap_rac"], g["W_final"]),
        (sketches[:1] * len(sketches), g["gap_asym"], g["W_asym"]),
    ):
        zero = torch.zeros(3, 3, dtype=torch.float64)
        run, gaps = projected_descent(zero, "B", drawn, 1.0, 1 / L, gap)
        gaps.append(float(gap(run.model, None).detach()))
        error = (torch.tensor(gaps, dtype=torch.float64) - expected).abs()
        assert float(error.max()) < 1e-9 * float(expected[0])
        (layer,) = run.layers.values()
        close(layer.get_delta_weight("default"), final)
        assert run.metrics["lambda_min"] == pytest.approx(1 / 3)
    assert linear_rate(1 / L, mu, 1 / 3) == pytest.approx(0.96667, abs=1e-5)
