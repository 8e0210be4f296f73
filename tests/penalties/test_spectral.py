"""The spectral ratio against a singular value decomposition that autograd differentiates."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rankwright.penalties import spectral
from rankwright.penalties.spectral import Norm, spectral_ratio

NORMS: tuple[Norm, ...] = ("frobenius", "nuclear")
every_norm = pytest.mark.parametrize("norm", NORMS)


def slow(Z: Tensor, k: int, norm: Norm) -> Tensor:
    """The definition, through torch's SVD."""
    sigma = torch.linalg.svdvals(Z)
    N = torch.linalg.matrix_norm(Z) if norm == "frobenius" else sigma.sum()
    return sigma[:k].sum() / N


def matrix(rows: int, columns: int, seed: int = 0, decay: float = 1.0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    Z = torch.randn(rows, columns, generator=draw, dtype=torch.float64)
    U, S, Vh = torch.linalg.svd(Z, full_matrices=False)
    return (U * S * decay ** torch.arange(len(S), dtype=torch.float64)) @ Vh


def both(Z: Tensor, k: int, norm: Norm) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(value, gradient) of ours and of the slow one."""
    found = []
    for function in (spectral_ratio, slow):
        leaf = Z.clone().requires_grad_()
        value = function(leaf, k, norm)
        (3.0 * value).backward()
        found.append((value.detach(), leaf.grad))
    return tuple(found)  # type: ignore[return-value]


@every_norm
@pytest.mark.parametrize(("rows", "columns"), [(5, 9), (9, 5), (6, 6), (1, 7), (7, 1)])
@pytest.mark.parametrize("k", [1, 3])
def test_it_is_the_slow_one(norm: Norm, rows: int, columns: int, k: int) -> None:
    ours, theirs = both(matrix(rows, columns), k, norm)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("rows", "columns"), [(300, 500), (500, 300)])
def test_the_subspace_iteration_is_the_slow_one(rows: int, columns: int) -> None:
    Z = matrix(rows, columns, decay=0.97)
    ours, theirs = both(Z, 5, "frobenius")
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)
    single = both(Z.float(), 5, "frobenius")[0]
    torch.testing.assert_close(single[0].double(), theirs[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(single[1].double(), theirs[1], rtol=1e-3, atol=1e-6)


def test_the_subspace_iteration_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """With too few iterations it is far off, so the test above is one of it."""
    monkeypatch.setattr(spectral, "ITERATIONS", 0)
    ours, theirs = both(matrix(300, 500, decay=0.97), 5, "frobenius")
    assert abs(float(ours[0] - theirs[0])) > 1e-3


@every_norm
def test_the_gradient_is_that_of_finite_differences(norm: Norm) -> None:
    Z = matrix(4, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: spectral_ratio(z, 2, norm), (Z,))


@pytest.mark.parametrize(
    ("Z", "k", "norm", "expected"),
    [
        (torch.outer(torch.arange(1.0, 4), torch.arange(1.0, 6)), 1, "frobenius", 1.0),
        (torch.outer(torch.arange(1.0, 4), torch.arange(1.0, 6)), 2, "nuclear", 1.0),
        (torch.eye(6), 2, "frobenius", 2 / math.sqrt(6)),
        (torch.eye(6), 2, "nuclear", 2 / 6),
        (torch.zeros(3, 4), 2, "frobenius", 0.0),
        (torch.zeros(3, 4), 2, "nuclear", 0.0),
    ],
)
def test_known_values(Z: Tensor, k: int, norm: Norm, expected: float) -> None:
    Z = Z.double().requires_grad_()
    value = spectral_ratio(Z, k, norm)
    assert float(value.detach()) == pytest.approx(expected, abs=1e-7)
    value.backward()
    assert bool(Z.grad.isfinite().all())  # type: ignore[union-attr]


@every_norm
def test_scale_and_rotations_do_not_matter_but_a_shift_of_the_rows_does(norm: Norm) -> None:
    Z = matrix(5, 8)
    before = spectral_ratio(Z, 2, norm)
    Q, P = (torch.linalg.qr(matrix(n, n, seed=n)).Q for n in (5, 8))
    torch.testing.assert_close(spectral_ratio(7 * Z, 2, norm), before)
    torch.testing.assert_close(spectral_ratio(Q @ Z @ P, 2, norm), before)
    assert abs(float(spectral_ratio(Z + 3, 2, norm) - before)) > 0.02


@every_norm
def test_the_whole_spectrum(norm: Norm) -> None:
    """All singular values leading: for the nuclear norm the constant 1."""
    Z = matrix(3, 7).requires_grad_()
    value = spectral_ratio(Z, 5, norm)
    value.backward()
    if norm == "nuclear":
        assert float(value.detach()) == 1
        assert float(Z.grad.abs().max()) < 1e-15  # type: ignore[union-attr]
    else:
        assert 1 < float(value.detach()) <= math.sqrt(3)
