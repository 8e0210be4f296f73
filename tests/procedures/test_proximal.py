"""Thresholds: values, the prox property, exact zeros."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rankwright.procedures.sparsify.proximal import THRESHOLDS, published_threshold, soft_threshold

POINTS = [0.05, -0.05, 0.03, 0.02, 0.0]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("soft", [0.03, -0.03, 0.01, 0.0, 0.0]), ("published", [0.03, -0.03, 0.0, 0.02, 0.0])],
)
def test_values(rule: str, expected: list[float]) -> None:
    x = torch.tensor(POINTS, dtype=torch.float64)
    THRESHOLDS[rule]([x], 0.02)
    torch.testing.assert_close(x, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-17)
    assert torch.equal(x == 0, torch.tensor(expected) == 0)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_soft_threshold_is_the_proximal_map() -> None:
    x = numbers(40)
    found = x.clone()
    soft_threshold([found], 0.4)
    grid = torch.linspace(-4, 4, 80001, dtype=torch.float64)
    objective = 0.5 * (grid[:, None] - x) ** 2 + 0.4 * grid[:, None].abs()
    torch.testing.assert_close(grid[objective.argmin(0)], found, rtol=0, atol=1e-4)


def test_it_does_not_expand() -> None:
    x, y = numbers(1000), numbers(1000, seed=1)
    before = (x - y).abs()
    soft_threshold([x, y], 0.5)
    assert ((x - y).abs() <= before).all()


def test_it_is_the_slow_formula_on_many_tensors_and_dtypes() -> None:
    for dtype in (torch.float32, torch.float64):
        many = [numbers(3, seed=1).to(dtype), numbers(4, 5, seed=2).to(dtype), numbers(0).to(dtype)]
        slow = [x.sign() * (x.abs() - 0.3).clamp_min(0) for x in many]
        soft_threshold(many, 0.3)
        for found, expected in zip(many, slow, strict=True):
            torch.testing.assert_close(found, expected)
            assert torch.equal(found == 0, expected == 0)
    soft_threshold([], 0.3)


def test_without_a_gradient_a_number_shrinks_by_xi_and_stays_at_zero() -> None:
    x = torch.tensor([1.0, -0.25], dtype=torch.float64)
    for step in range(1, 8):
        soft_threshold([x], 0.25)
        assert x.tolist() == [max(1 - 0.25 * step, 0), 0]


def test_a_larger_threshold_leaves_no_fewer_zeros() -> None:
    zeros = []
    for xi in (0.0, 0.1, 0.5, 2.0):
        x = numbers(200)
        soft_threshold([x], xi)
        zeros.append(int((x == 0).sum()))
    assert zeros == sorted(zeros)
    assert zeros[0] == 0 < zeros[1] < zeros[-1]


@pytest.mark.parametrize("rule", [soft_threshold, published_threshold])
def test_after_any_optimizer_in_a_loop_of_ones_own(rule: object) -> None:
    """Proximal gradient descent finds the lasso's solution, here known in closed form."""
    target = torch.tensor([1.0, 0.3, -0.7, 0.05])
    gates = nn.Parameter(torch.ones(4))
    optimizer = torch.optim.SGD([gates], lr=0.1)
    optimizer.register_step_post_hook(lambda *_: rule([gates], 0.1 * 0.2))  # type: ignore[operator]
    for _ in range(300):
        optimizer.zero_grad()
        (0.5 * (gates - target).square().sum()).backward()
        optimizer.step()
    lasso = target.sign() * (target.abs() - 0.2).clamp_min(0)
    torch.testing.assert_close(gates.detach(), lasso, rtol=0, atol=1e-6)
    assert float(gates.detach()[3]) == 0
