"""The factors that a start makes of a weight: OLoRA's and PiSSA's algebra."""

import pytest
import torch
from torch import Tensor

from rankwright.errors import MethodError
from rankwright.inits import Olora, Pissa
from rankwright.inits.olora import pivots, qr_factors

SHAPES = [(10, 7), (6, 12), (8, 8)]


def matrix(out: int, in_: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(out, in_, generator=generator, dtype=torch.float64)


def orthogonal(size: int) -> Tensor:
    return torch.linalg.qr(matrix(size, size, seed=9))[0]


def close(actual: Tensor, expected: Tensor, rtol: float = 1e-12) -> None:
    scale = max(float(expected.abs().max()), 1.0)
    torch.testing.assert_close(actual, expected, rtol=0, atol=rtol * scale)


# OLoRA -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_qr_factors_project_onto_the_first_columns(shape):
    W, r = matrix(*shape), 3
    A, B = qr_factors(W, r)
    P = W[:, :r] @ torch.linalg.pinv(W[:, :r])
    close(B.T @ B, torch.eye(r, dtype=W.dtype))
    close(B @ A, P @ W)
    close((B @ A)[:, :r], W[:, :r])
    assert torch.equal(A[:, :r].tril(-1), torch.zeros(r, r, dtype=W.dtype))


@pytest.mark.parametrize("shape", SHAPES)
def test_thin_qr_is_the_full_one(shape):
    W, r = matrix(*shape).float(), 3
    A, B = qr_factors(W, r)
    Q, R = torch.linalg.qr(W)
    close(B @ A, Q[:, :r] @ R[:r], rtol=1e-5)
    gram = torch.linalg.cholesky(W[:, :r].T @ W[:, :r])
    Q = torch.linalg.solve_triangular(gram, W[:, :r].T, upper=False).T
    close(B @ A, Q @ (Q.T @ W), rtol=1e-5)


def test_two_by_two():
    W = torch.tensor([[3.0, 1.0], [4.0, 2.0]], dtype=torch.float64)
    A, B = qr_factors(W, 1)
    sign = B[0].sign()
    close(sign * B, torch.tensor([[0.6], [0.8]], dtype=W.dtype))
    close(sign * A, torch.tensor([[5.0, 2.2]], dtype=W.dtype))
    close(W - B @ A, torch.tensor([[0.0, -0.32], [0.0, 0.24]], dtype=W.dtype))


@pytest.mark.parametrize("shape", SHAPES)
def test_full_rank_leaves_nothing_over(shape):
    W = matrix(*shape)
    for init in (Olora(), Pissa()):
        A, B = init.factors(W, min(shape), 1.0)
        close(B @ A, W)


def test_rows_may_be_rotated_but_columns_not_be_permuted():
    W, r = matrix(9, 8), 3
    rotated, (A, B) = orthogonal(9) @ W, qr_factors(W, r)
    A_rotated, B_rotated = qr_factors(rotated, r)
    close(B_rotated @ A_rotated, orthogonal(9) @ B @ A)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(3))
    A_permuted, B_permuted = qr_factors(W[:, order], r)
    moved = torch.linalg.norm(B_permuted @ A_permuted - (B @ A)[:, order])
    assert moved > 0.1 * torch.linalg.norm(B @ A)


@pytest.mark.parametrize("dead", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_dead_leading_column_takes_the_pivoted_columns(dead, dtype):
    W, r = matrix(9, 8).to(dtype), 3
    W[:, dead] = 0 if dead < 2 else W[:, 0] - 2 * W[:, 1]
    A, B = qr_factors(W, r)
    chosen = W[:, pivots(W, r)].double()
    P = chosen @ torch.linalg.pinv(chosen)
    close((B @ A).double(), P @ W.double(), rtol=1e-5 if dtype == torch.float32 else 1e-12)
    close(B.T @ B, torch.eye(r, dtype=dtype), rtol=1e-5)
    assert torch.linalg.matrix_rank(B @ A) == r


def test_pivots_are_those_of_lapack():
    scipy_linalg = pytest.importorskip("scipy.linalg")
    W = matrix(9, 8)
    _, _, expected = scipy_linalg.qr(W.numpy(), pivoting=True)
    assert pivots(W, 6).tolist() == expected[:6].tolist()


@pytest.mark.parametrize("W", [torch.zeros(5, 4), torch.ones(5, 4)])
def test_a_weight_of_lower_rank_than_the_factors(W):
    A, B = qr_factors(W, 3)
    close(B @ A, W, rtol=1e-6)
    close(B.T @ B, torch.eye(3), rtol=1e-6)


# PiSSA -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("s", [0.5, 2.0])
def test_svd_factors_are_balanced_and_best(shape, s):
    W, r = matrix(*shape), 3
    A, B = Pissa().factors(W, r, s)
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    close(s * B @ A, U[:, :r] * S[:r] @ Vh[:r])
    close(A @ A.T, torch.diag(S[:r] / s))
    close(B.T @ B, torch.diag(S[:r] / s))
    rest = W - s * B @ A
    close(torch.linalg.svdvals(rest)[: min(shape) - r], S[r:])
    close(rest.square().sum(), S[r:].square().sum())


def test_randomised_svd_nears_the_exact_one_and_is_a_function_of_its_seed():
    W, r = matrix(40, 30), 4
    exact_A, exact_B = Pissa().factors(W, r, 1.0)
    best = torch.linalg.norm(W - exact_B @ exact_A)
    errors = []
    for niter in (0, 2, 16):
        A, B = Pissa(niter).factors(W, r, 1.0)
        errors.append(float(torch.linalg.norm(W - B @ A) / best) - 1)
    assert errors[0] > errors[1] > errors[2] >= -1e-12
    assert errors[2] < 1e-3
    again, other = (Pissa(2, seed).factors(W, r, 1.0) for seed in (0, 1))
    assert torch.equal(again[0], Pissa(2).factors(W, r, 1.0)[0])
    assert not torch.equal(again[0], other[0])


def test_randomised_svd_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    Pissa(2).factors(matrix(8, 6), 2, 1.0)
    assert torch.equal(before, torch.get_rng_state())


def test_a_wrong_niter_is_named():
    with pytest.raises(MethodError, match=r"Pissa\.niter = -1: expected None"):
        Pissa(-1)
