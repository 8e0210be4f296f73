"""What the adjusted gradients of a pair promise, beside the dense gradient that they stand for."""

from __future__ import annotations

from typing import Any, NamedTuple, get_args

import pytest
import torch
from torch import Tensor

from rankwright.optimizers.equivalent import XMode, adjusted_gradients, equivalent_norm_sq

X_MODES = get_args(XMode)


class Pair(NamedTuple):
    """A pair and the gradient of its weight, float64."""

    A: Tensor
    B: Tensor
    G: Tensor
    s: float = 2.0

    @property
    def gradients(self) -> tuple[Tensor, Tensor]:
        """hA (r, in), hB (out, r)."""
        return self.s * self.B.mT @ self.G, self.s * self.G @ self.A.mT

    def adjusted(self, **options: Any) -> tuple[Tensor, Tensor]:
        return adjusted_gradients(
            self.A, self.B, *self.gradients, self.s, **{"delta": 0.0, **options}
        )

    def moved(self, gA: Tensor, gB: Tensor) -> Tensor:
        """E of a pair of directions."""
        return self.s * (self.B @ gA + gB @ self.A)

    def equivalent(self, **options: Any) -> Tensor:
        return self.moved(*self.adjusted(**options))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pair(d_out: int = 10, d_in: int = 12, r: int = 4, s: float = 2.0) -> Pair:
    return Pair(draw(r, d_in, seed=1), draw(d_out, r, seed=2), draw(d_out, d_in, seed=3), s)


def projection(columns: Tensor) -> Tensor:
    """On their span, by QR."""
    Q = torch.linalg.qr(columns).Q
    return Q @ Q.T


def close(actual: Tensor, expected: Tensor, rtol: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=rtol * float(expected.norm()))


def change_sq(p: Pair, gA: Tensor, gB: Tensor) -> Tensor:
    hA, hB = p.gradients
    return (gA - hA).square().sum() + (gB - hB).square().sum()


def test_the_tiny_case() -> None:
    A, B = torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[1.0], [0.0]]).double()
    p = Pair(A, B, torch.tensor([[3.0, 5.0], [7.0, 11.0]]).double(), 1.0)
    hA, hB = p.gradients
    assert hA.tolist() == [[3, 5]]
    assert hB.tolist() == [[3], [7]]
    gA, gB = p.adjusted()
    close(gA, torch.tensor([[1.5, 5.0]]).double())
    close(gB, torch.tensor([[1.5], [7.0]]).double())
    close(p.moved(gA, gB), torch.tensor([[3.0, 5.0], [7.0, 0.0]]).double())


@pytest.mark.parametrize("x_mode", X_MODES)
def test_the_joint_effect_is_the_projection_on_the_tangent_space(x_mode: XMode) -> None:
    p = pair()
    P_B, P_A = projection(p.B), projection(p.A.T)
    E = p.equivalent(x_mode=x_mode)
    close(E, P_B @ p.G + p.G @ P_A - P_B @ p.G @ P_A)
    close(p._replace(G=E).equivalent(x_mode=x_mode), E)  # idempotent
    assert float(E.norm()) <= float(p.G.norm())
    close((p.G * E).sum(), E.square().sum())
    close(equivalent_norm_sq(*p.gradients, *p.adjusted(x_mode=x_mode)), E.square().sum())


def test_another_x_has_the_same_effect() -> None:
    p = pair()
    gA, gB = p.adjusted()
    X = draw(4, 4, seed=9)
    close(p.moved(gA + X @ p.A, gB - p.B @ X), p.equivalent())


def test_no_pair_of_directions_comes_closer() -> None:
    p = pair()
    residual = p.G - p.equivalent()
    for seed in range(20):
        away = p.moved(draw(4, 12, seed=seed), draw(10, 4, seed=100 + seed))
        assert abs(float((residual * away).sum())) < 1e-11
        assert float((residual + 1e-3 * away).norm()) > float(residual.norm())


def test_sylvester_changes_the_gradients_least() -> None:
    p = pair()
    gA, gB = p.adjusted()
    least = change_sq(p, gA, gB)
    for x_mode in ("symmetric", "zero"):
        assert change_sq(p, *p.adjusted(x_mode=x_mode)) > least
    for seed in range(20):
        X = 1e-3 * draw(4, 4, seed=seed)
        assert change_sq(p, gA + X @ p.A, gB - p.B @ X) > least


def test_symmetric_splits_the_shared_part_equally() -> None:
    p = pair()
    gA, gB = p.adjusted(x_mode="symmetric")
    shared = projection(p.B) @ p.G @ projection(p.A.T)
    close(p.s * p.B @ gA @ projection(p.A.T), shared / 2)
    close(p.s * projection(p.B) @ gB @ p.A, shared / 2)


@pytest.mark.parametrize("x_mode", X_MODES)
def test_the_velocity_of_the_weight_does_not_depend_on_the_factorisation(x_mode: XMode) -> None:
    p, R = pair(), draw(4, 4, seed=5)
    turned = p._replace(A=R @ p.A, B=p.B @ torch.linalg.inv(R))
    close(turned.equivalent(x_mode=x_mode), p.equivalent(), rtol=1e-10)
    control = p.moved(*p.gradients)
    assert float((turned.moved(*turned.gradients) - control).norm()) > 0.1 * float(control.norm())


def stepped(p: Pair, lr: float = 3.0, **options: Any) -> Tensor:
    gA, gB = p.adjusted(**options)
    return p.s * (p.B - lr * gB) @ (p.A - lr * gA)


def test_which_finite_steps_do_not_depend_on_the_factorisation() -> None:
    """Sylvester's: rotations only. The other two: every invertible R."""
    p, R = pair(), draw(4, 4, seed=5)
    Q = torch.linalg.qr(R).Q
    rotated = p._replace(A=Q @ p.A, B=p.B @ Q.T)
    turned = p._replace(A=R @ p.A, B=p.B @ torch.linalg.inv(R))
    for x_mode in X_MODES:
        close(stepped(rotated, x_mode=x_mode), stepped(p, x_mode=x_mode))
    for x_mode in ("symmetric", "zero"):
        close(stepped(turned, x_mode=x_mode), stepped(p, x_mode=x_mode), rtol=1e-10)
    assert float((stepped(turned) - stepped(p)).norm()) > 1e-2 * float(stepped(p).norm())


def test_scaling_of_the_product_and_of_b_cancel() -> None:
    p = pair()
    close(p._replace(s=3 * p.s, B=p.B / 3).equivalent(), p.equivalent())


def test_exact_where_the_spans_hold_the_gradient() -> None:
    p = pair()
    inside = p._replace(G=p.B @ draw(4, 12, seed=7))
    close(inside.equivalent(), inside.G)
    inside = p._replace(G=draw(10, 4, seed=7) @ p.A)
    close(inside.equivalent(), inside.G)


@pytest.mark.parametrize("delta", [0.0, 1e-8])
def test_zero_b_leaves_a_and_projects_on_its_rows(delta: float) -> None:
    p = pair()._replace(B=torch.zeros(10, 4).double())
    gA, gB = p.adjusted(delta=delta)
    assert torch.equal(gA, torch.zeros_like(gA))
    close(p.moved(gA, gB), p.G @ projection(p.A.T), rtol=max(1e-12, delta))


@pytest.mark.parametrize(("delta", "rtol"), [(0.0, 1e-12), (1e-8, 1e-7)])
def test_a_square_a_gives_the_whole_gradient(delta: float, rtol: float) -> None:
    p = pair(10, 4, 4)._replace(B=torch.zeros(10, 4).double())
    close(p.equivalent(delta=delta), p.G, rtol=rtol)


def test_a_relative_ridge_follows_the_scale_of_the_factors() -> None:
    p = pair()
    options = {"delta": 1e-3, "relative_delta": True, "x_mode": "zero"}
    smaller = p._replace(A=p.A / 100, B=p.B / 100, s=p.s * 1e4)
    close(smaller.equivalent(**options), p.equivalent(**options))
    assert not torch.allclose(p.equivalent(**options), p.equivalent())


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("x_mode", X_MODES)
def test_a_batch_is_its_pairs(x_mode: XMode, relative: bool) -> None:
    pairs = [pair(s=s)._replace(A=draw(4, 12, seed=i)) for i, s in enumerate((0.5, 2.0, 8.0))]
    pairs[1] = pairs[1]._replace(B=torch.zeros(10, 4).double())
    options = {"x_mode": x_mode, "delta": 1e-8, "relative_delta": relative}
    A, B = (torch.stack([getattr(p, name) for p in pairs]) for name in "AB")
    hA, hB = (torch.stack(part) for part in zip(*(p.gradients for p in pairs), strict=True))
    s = torch.tensor([p.s for p in pairs], dtype=torch.float64).view(-1, 1, 1)
    gA, gB = adjusted_gradients(A, B, hA, hB, s, **options)
    norms = equivalent_norm_sq(hA, hB, gA, gB)
    for i, p in enumerate(pairs):
        alone = p.adjusted(**options)
        close(gA[i], alone[0])
        close(gB[i], alone[1])
        close(norms[i], equivalent_norm_sq(*p.gradients, *alone))


def test_float32_factors() -> None:
    p = pair()
    exact = p.adjusted(delta=1e-8)
    found = adjusted_gradients(*(t.float() for t in (p.A, p.B, *p.gradients)), p.s)
    for one, other in zip(found, exact, strict=True):
        assert one.dtype == torch.float32
        assert float((one.double() - other).norm() / other.norm()) < 2e-6
