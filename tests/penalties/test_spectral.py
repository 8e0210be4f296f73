"""The spectral ratio against a singular value decomposition that autograd differentiates."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rankwright.penalties import spectral
from rankwright.penalties.spectral import Norm, spectral_ratio

NORMS: tuple[Norm, ...] = ("frobenius", "nuclear")
SHAPES = [(32, 151), (151, 32), (40, 40)]
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


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_the_subspace_iteration_squares_in_float64(scale: float) -> None:
    """In float32 squares of such numbers are 0 or infinite, and lose small singular values."""
    Z = (scale * matrix(300, 500, decay=0.3)).float()
    (value, gradient), _ = both(Z, 8, "frobenius")
    _, expected = both(Z.double(), 8, "frobenius")
    assert float(value) == pytest.approx(float(expected[0]), rel=1e-6)
    off = (gradient.double() - expected[1]).norm() / expected[1].norm()
    assert float(off) < 1e-4


@pytest.mark.parametrize(
    ("norm", "rows", "columns", "decay"),
    [
        *(("nuclear", *shape, decay) for shape in SHAPES for decay in (0.95, 0.9, 0.7, 0.5)),
        *(("frobenius", *shape, decay) for shape in SHAPES[:2] for decay in (0.9, 0.5)),
        ("nuclear", 300, 301, 0.95),
        ("nuclear", 7, 9000, 0.05),
        ("nuclear", 9000, 7, 0.05),
    ],
)
def test_small_singular_values_count_in_float32(
    norm: Norm, rows: int, columns: int, decay: float
) -> None:
    """With columns that decay, down to ten orders of magnitude; the reference is in float64."""
    Z = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
    Z *= decay ** torch.arange(columns)
    (value, gradient), _ = both(Z, 5, norm)
    _, expected = both(Z.double(), 5, norm)
    torch.testing.assert_close(value.double(), expected[0], rtol=1e-6, atol=0)
    off = (gradient.double() - expected[1]).norm() / expected[1].norm()
    assert float(off) < 1e-4


def test_blocks_are_of_one_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    Z = matrix(5, 67, decay=0.3)
    whole, _ = both(Z, 2, "nuclear")
    monkeypatch.setattr(spectral, "BLOCK", 1)  # 20 columns then, four times the rows
    blocks, theirs = both(Z, 2, "nuclear")
    torch.testing.assert_close(blocks, whole, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(blocks, theirs, rtol=1e-9, atol=1e-12)


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
