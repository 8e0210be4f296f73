"""Low-rank algebra against its dense definition."""

import pytest
import torch
from torch import Tensor

from rankwright.algebra.block_products import BLOCK_NUMBERS
from rankwright.algebra.cosines import base_gram, factored_cosines_sq
from rankwright.algebra.row_norms import factored_row_norm, row_norm_sq
from rankwright.algebra.truncation import truncated_product, truncated_svd


def problem(
    d_out: int = 30, d_in: int = 20, r: int = 3, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """W, A and B."""
    torch.manual_seed(0)
    W, A, B = torch.randn(d_out, d_in), torch.randn(r, d_in), torch.randn(d_out, r)
    return W.to(dtype), A.to(dtype), B.to(dtype)


def dense_row_norm(W: Tensor, A: Tensor, B: Tensor, s: float) -> Tensor:
    norm: Tensor = (W + s * B @ A).norm(dim=1)
    return norm


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-13), (torch.float32, 5e-7)])
def test_row_norm_equals_dense(dtype: torch.dtype, bound: float) -> None:
    W, A, B = problem(400, 300, 8, dtype)
    n = factored_row_norm(W, A, B, 0.5, row_norm_sq(W))
    exact = dense_row_norm(W.double(), A.double(), B.double(), 0.5)
    assert n.dtype == dtype
    assert float(((n - exact).abs() / W.double().norm(dim=1)).max()) < bound


def test_closed_case() -> None:
    W, A, B = torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0]])
    c = row_norm_sq(W)
    assert float(c) == pytest.approx(25)
    assert float(factored_row_norm(W, A, B, 1.0, c)) == pytest.approx(52**0.5)


def test_cancelling_rows_are_computed_densely() -> None:
    W, A, B = problem(dtype=torch.float32)
    small = 1e-3 * torch.randn(2, 20)
    W[:2] = small - B[:2] @ A  # V is a thousandth of W in rows 0 and 1
    n = factored_row_norm(W, A, B, 1.0, row_norm_sq(W))
    torch.testing.assert_close(
        n.double(), dense_row_norm(W.double(), A.double(), B.double(), 1.0), rtol=3e-4, atol=0
    )
    torch.testing.assert_close(n[:2], (W + B @ A)[:2].norm(dim=1), rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weight_in_blocks_of_rows(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, columns = 7, 20
    monkeypatch.setattr("rankwright.algebra.block_products.BLOCK_NUMBERS", rows * columns)
    W, A, B = problem(dtype=torch.float32)
    W = W.to(dtype)
    A.requires_grad_()
    c = row_norm_sq(W)
    n = factored_row_norm(W, A, B, 1.0, c)
    (grad,) = torch.autograd.grad(n.sum(), A)
    exact = dense_row_norm(W.float(), A, B, 1.0)
    (exact_grad,) = torch.autograd.grad(exact.sum(), A)
    assert BLOCK_NUMBERS > 7 * 20
    assert n.dtype == c.dtype == torch.float32
    torch.testing.assert_close(n, exact)
    torch.testing.assert_close(grad, exact_grad)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["direct", "blocks"])
def test_row_norm_is_twice_differentiable(dtype: torch.dtype) -> None:
    W, A, B = problem(5, 4, 2)
    W = W.to(dtype)
    W[0] = (-B @ A)[0] + 1e-5  # a row that is computed densely
    c = row_norm_sq(W, torch.float64)

    def norm(A: Tensor, B: Tensor) -> Tensor:
        return factored_row_norm(W, A, B, 1.0, c)[1:]

    inputs = (A.requires_grad_(), B.requires_grad_())
    assert torch.autograd.gradcheck(norm, inputs)
    assert torch.autograd.gradgradcheck(norm, inputs)


def test_zero_row_has_norm_and_gradient_zero() -> None:
    W, A, B = problem()
    W[1], B[1] = 0, 0
    A.requires_grad_()
    B.requires_grad_()
    n = factored_row_norm(W, A, B, 1.0, row_norm_sq(W))
    grad_A, grad_B = torch.autograd.grad(n.sum(), (A, B))
    assert n[1] == 0
    assert torch.equal(grad_B[1], torch.zeros(3, dtype=torch.float64))
    assert bool(torch.isfinite(grad_A).all())


def test_sum_of_squared_cosines_equals_dense() -> None:
    W, A, B = problem()
    V = W + 0.5 * B @ A
    D = V / V.norm(dim=1, keepdim=True)
    expected = (D @ D.T).fill_diagonal_(0).square().sum()
    found = factored_cosines_sq(W, A, B, 0.5, base_gram(W))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_truncated_product_is_the_truncated_svd(rank: int) -> None:
    _, A, B = problem(30, 20, 5)
    ours, dense = truncated_product(A, B, rank), truncated_svd(B @ A, rank)
    torch.testing.assert_close(ours.B @ ours.A, dense.B @ dense.A)
    assert ours.A.shape == (rank, 20)
    assert ours.B.shape == (30, rank)
    error = float((B @ A - ours.B @ ours.A).norm() / (B @ A).norm())
    assert ours.relative_error == pytest.approx(error, abs=1e-14)
    assert dense.relative_error == pytest.approx(error, abs=1e-14)
    torch.testing.assert_close(ours.dropped, dense.dropped[: len(ours.dropped)])


def test_factors_are_balanced() -> None:
    _, A, B = problem(30, 20, 5)
    A_R, B_R, _, _ = truncated_product(A, B, 4)
    torch.testing.assert_close(A_R @ A_R.T, B_R.T @ B_R)
    off_diagonal = A_R @ A_R.T - (A_R @ A_R.T).diagonal().diag()
    assert float(off_diagonal.abs().max()) < 1e-13


@pytest.mark.parametrize(("d_out", "d_in", "r"), [(4, 9, 6), (9, 4, 6)])
def test_rank_above_a_side(d_out: int, d_in: int, r: int) -> None:
    _, A, B = problem(d_out, d_in, r)
    exact = truncated_product(A, B, 4)
    torch.testing.assert_close(exact.B @ exact.A, B @ A)
    assert exact.relative_error == 0.0


def test_zero_product() -> None:
    _, A, B = problem()
    assert truncated_product(A, 0 * B, 2).relative_error == 0.0


def test_half_precision_goes_through_float32() -> None:
    _, A, B = problem(dtype=torch.bfloat16)
    found = truncated_product(A, B, 3)
    assert found.A.dtype == torch.float32
    torch.testing.assert_close(found.B @ found.A, B.float() @ A.float())


@pytest.mark.parametrize("rank", [0, 21])
def test_impossible_rank(rank: int) -> None:
    W, A, B = problem()
    with pytest.raises(ValueError, match=f"rank {rank} does not fit a 30 x 20 matrix"):
        truncated_product(A, B, rank)
    with pytest.raises(ValueError, match="choose a rank from 1 to 20"):
        truncated_svd(W, rank)
