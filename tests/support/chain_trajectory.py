"""Run a chain beside a stored trajectory of a public implementation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from chain_toy import Tanh, chained, mean_square
from rankwright.core.loop import Loop
from rankwright.core.schedule import Shape
from rankwright.procedures.chain.chain import Chain

RTOL = 1e-9  # the notes' tolerance in float64


class Recorder(Loop):
    """A loop that keeps the live factors and their gradients of every step, by layer number."""

    def fire(self, event: str) -> None:
        if event == "after_step":
            self.seen = {}
            for name, stack in self.procedure.boosters.stacks.items():
                number = name.split(".layers.")[1]
                for factor, live in (("A", stack.A.live), ("B", stack.B.live)):
                    self.seen[f"{factor}.{number}"] = live.detach().clone()
                    if live.grad is not None:
                        self.seen[f"grad{factor}.{number}"] = live.grad.clone()
        super().fire(event)


def close(actual: Tensor | float, expected: Tensor) -> None:
    """Within `RTOL` of the largest entry."""
    atol = RTOL * max(float(expected.abs().max()), 1e-30)
    torch.testing.assert_close(
        torch.as_tensor(actual, dtype=torch.float64), expected, rtol=RTOL, atol=atol
    )


def stored_draw(g: dict[str, Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    """The first factors of every link, as they are in the file."""

    def basis(run: Any, round_: int, name: str, layer: Any) -> tuple[Tensor, Tensor]:
        number = name.split(".layers.")[1]
        return g[f"link{round_}.A_init.{number}"], g[f"link{round_}.B_init.{number}"]

    return basis


def follow(
    g: dict[str, Tensor],
    *,
    rounds: int,
    r: int,
    alpha: float,
    lr: float,
    optimizer: type[torch.optim.Optimizer],
    schedule: Shape,
    **fields: Any,
) -> Recorder:
    """Train as the file says and compare every number in it."""
    steps, layers = len(g["loss"]), sum(key.startswith("W0.") for key in g)
    weights = [g[f"W0.{i}"] for i in range(layers)]
    chain = Chain(rounds=rounds, round_basis=stored_draw(g), lr_policy="restart", **fields)
    model, method = chained(Tanh(weights), chain, r=r, lora_alpha=alpha)
    run = Recorder(
        model,
        method,
        total_steps=steps,
        lr=lr,
        weight_decay=0.0,
        optimizer=optimizer,
        loss=mean_square,
        schedule=schedule,
    )
    for step in range(steps):
        link, done = divmod(step, steps // rounds)
        close(run.optimizer.param_groups[0]["lr"], g["lr_per_step_in_link"][done])
        close(run.train_step((g["x"][step], g["y"][step])), g["loss"][step])
        stored = {key.partition(".")[2]: g[key] for key in g if key.startswith(f"step{step}.")}
        assert stored
        for key, expected in stored.items():
            close(run.seen[key], expected)
        if done + 1 == steps // rounds:
            _compare(run, weights, {i: g[f"merged{link}.W.{i}"] for i in range(layers)})
    run.finish()
    for i, stack in enumerate(run.procedure.boosters.stacks.values()):
        close(stack.A.weight.detach(), g[f"concat.A.{i}"])
        close(stack.B.weight.detach(), g[f"concat.B.{i}"])
    return run


def _compare(run: Loop, weights: list[Tensor], expected: dict[int, Tensor]) -> None:
    for i, layer in enumerate(run.layers.values()):
        close(weights[i] + layer.get_delta_weight("default"), expected[i])


def output(model: nn.Module, x: Tensor) -> Tensor:
    """The model's output in eval mode."""
    with torch.no_grad():
        return model.eval()(x)
