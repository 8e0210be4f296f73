"""One factor drawn at random and frozen: the draws, and the projected step of the analysis.

RAC-LoRA (arXiv 2410.08305) trains one factor of a round and leaves the other as it was drawn. With
W (out, in), G = dL/dW, S the frozen factor, and s = lora_alpha / r:

    A frozen:  H = A^T (A A^T)^-1 A  (in, in),    W' = W - gamma G H
    B frozen:  H = B (B^T B)^-1 B^T  (out, out),  W' = W - gamma H G

is the best step under the smoothness bound, whatever s and however S is scaled or rotated. One step
of gradient descent on the free factor from zero makes it if that factor's gradient is first
multiplied by (s^2 S S^T)^-1, an r x r solve.

With lambda_min the smallest eigenvalue of E[H], which is r / in or r / out for all draws here,
0 < gamma <= 1 / L and T rounds of one such step, the paper's bounds are (as its reviews quote them)

    E |grad f|^2 <= 2 (f(W_0) - f*) / (lambda_min gamma T)       at an iterate drawn at random,
    E f(W_T) - f* <= (1 - gamma mu lambda_min)^T (f(W_0) - f*)   under the PL condition with mu.
"""

from __future__ import annotations

import math
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from rankwright.algebra.precision import compute_dtype
from rankwright.core.random_state import seeded_generator
from rankwright.layers.stacked.layer import Side

FrozenDraw = Literal["gaussian", "orthonormal", "unbiased"]

SIDES: tuple[Side, ...] = get_args(Side)
DRAWS: tuple[FrozenDraw, ...] = get_args(FrozenDraw)


def draw_frozen(
    seed: int, round_: int, name: str, *, side: Side, draw: FrozenDraw, rank: int, features: int
) -> Tensor:
    """The frozen factor of one round of one module, a pure function of the arguments.

    Drawn on the CPU in float32, so that no device has a say in it.

    Args:
        seed: The run's seed.
        round_: Number of the round, from 0.
        name: Name of the adapted module.
        side: Which factor.
        draw: "gaussian": entries N(0, 1 / features), so rows of A (columns of B) have length 1 on
            average. "orthonormal": they are orthonormal, uniformly distributed. "unbiased": these
            times sqrt(features / rank), so that E[S^T S] = I: a plain gradient step on the free
            factor is then a full gradient step on average.
        rank: r.
        features: in for A, out for B.

    Returns:
        A (r, in) or B (out, r).
    """
    generator = seeded_generator(seed, "frozen", round_, name)
    rows = torch.randn(rank, features, generator=generator)
    if draw == "gaussian":
        rows = rows / math.sqrt(features)
    else:
        Q, R = torch.linalg.qr(rows.double().T)
        Q = Q * torch.where(R.diagonal() < 0, -1.0, 1.0)  # without it Q is not uniform
        rows = (Q.T * (math.sqrt(features / rank) if draw == "unbiased" else 1.0)).float()
    return rows if side == "A" else rows.T.contiguous()


def projection(frozen: Tensor, side: Side) -> Tensor:
    """H of a frozen factor of full rank, from a QR: dense, for tests and small layers.

    Args:
        frozen: A (r, in) or B (out, r).
        side: Which.

    Returns:
        (in, in) for A, (out, out) for B; symmetric, idempotent, trace r.
    """
    columns = frozen.T if side == "A" else frozen
    Q = torch.linalg.qr(columns.to(compute_dtype(frozen))).Q
    return cast(Tensor, Q @ Q.T)


def projected_gradient(gradient: Tensor, frozen: Tensor, side: Side, s: float) -> Tensor:
    """The free factor's gradient, multiplied by the inverse of s^2 S S^T.

    Args:
        gradient: dL/dB (out, r) where A is frozen, dL/dA (r, in) where B is.
        frozen: The other factor.
        side: The frozen one.
        s: lora_alpha / r.

    Returns:
        In the shape and dtype of `gradient`; minus gamma times it is the free factor's exact step.
    """
    dtype = compute_dtype(gradient, frozen)
    columns = frozen.T if side == "A" else frozen
    R = torch.linalg.qr(columns.to(dtype), mode="r").R  # S S^T = R^T R, without squaring S
    right_side = (gradient.T if side == "A" else gradient).to(dtype)
    solved = torch.cholesky_solve(right_side, R, upper=True) / s**2
    return (solved.T if side == "A" else solved).to(gradient.dtype)


def gradient_bound(gap: float, gamma: float, lambda_min: float, rounds: int) -> float:
    """Bound on E |grad f|^2 after `rounds` exact steps of size gamma <= 1 / L (Theorem 5.3).

    Args:
        gap: f(W_0) - f*.
        gamma: Step size.
        lambda_min: Smallest eigenvalue of E[H]; the metric `lambda_min` of a run.
        rounds: T.
    """
    return 2 * gap / (lambda_min * gamma * rounds)


def linear_rate(gamma: float, mu: float, lambda_min: float) -> float:
    """Factor on the expected gap a round under the PL condition with constant mu (Theorem 5.5)."""
    return 1 - gamma * mu * lambda_min
