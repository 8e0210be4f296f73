"""Orthogonality of factors, and binary entropy of gates."""

from __future__ import annotations

import math

import pytest
import torch

from rankwright.penalties.near_binary import binary_entropy
from rankwright.penalties.orthogonality import excess, orthogonality, squared_excess


def factor(*shape: int, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


def orthonormal(r: int, n: int) -> torch.Tensor:
    return torch.linalg.qr(factor(n, r))[0].T


def test_orthonormal_rows_cost_nothing_and_zero_rows_their_number() -> None:
    P, Q, zero = orthonormal(3, 7), orthonormal(3, 5), torch.zeros(3, 5, dtype=torch.float64)
    assert float(orthogonality([P, Q])) == pytest.approx(0, abs=1e-28)
    assert float(orthogonality([P, zero])) == pytest.approx(3)
    assert float(orthogonality([zero, zero])) == pytest.approx(6)
    assert float(orthogonality([P, zero], "norm")) == pytest.approx(math.sqrt(3) / 2)


def test_gradient_is_the_closed_form() -> None:
    F = factor(3, 7).requires_grad_()
    (grad,) = torch.autograd.grad(orthogonality([F]), F)
    eye = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(grad, 4 * (F @ F.T - eye) @ F, rtol=1e-12, atol=1e-12)


def test_its_gradients_are_those_of_autograd_twice_over() -> None:
    F = torch.randn(3, 2, 5, dtype=torch.float64, requires_grad=True)
    plain = lambda F: excess(F).square().sum()  # noqa: E731
    torch.testing.assert_close(squared_excess(F), plain(F))
    ours, reference = (torch.autograd.grad(f(F), F)[0] for f in (squared_excess, plain))
    torch.testing.assert_close(ours, reference)
    assert torch.autograd.gradcheck(squared_excess, F)
    assert torch.autograd.gradgradcheck(squared_excess, F)


def test_zero_factors_have_gradient_zero() -> None:
    zero = torch.zeros(3, 7, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(orthogonality([zero, orthonormal(3, 5)]), zero)
    assert not grad.any()


def test_the_norm_is_pefts_orthogonal_regularisation() -> None:
    """PEFT's AdaLoRA: the mean over its factors of |F F^T - I|, Frobenius norm."""
    factors = [factor(3, 7), factor(3, 5, seed=1)]
    eye = torch.eye(3, dtype=torch.float64)
    expected = sum(torch.norm(F @ F.T - eye) for F in factors) / 2
    torch.testing.assert_close(orthogonality(factors, "norm"), expected)


def test_half_precision_is_computed_in_float32() -> None:
    F = factor(3, 7).to(torch.bfloat16)
    assert orthogonality([F]).dtype == torch.float32


def test_binary_entropy() -> None:
    assert float(binary_entropy(torch.zeros(5))) == pytest.approx(5 * math.log(2))
    assert float(binary_entropy(torch.tensor([80.0, -80.0]))) == pytest.approx(0, abs=1e-6)
    theta = factor(6).requires_grad_()
    (grad,) = torch.autograd.grad(binary_entropy(theta), theta)
    w = torch.sigmoid(theta)
    torch.testing.assert_close(grad, -w * (1 - w) * theta, rtol=1e-12, atol=1e-12)
    extreme = torch.tensor([1e4, -1e4], requires_grad=True)
    (grad,) = torch.autograd.grad(binary_entropy(extreme), extreme)
    assert grad.isfinite().all()
