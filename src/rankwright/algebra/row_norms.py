"""Row norms of a weight with a low-rank update, without the `out x in` matrix.

Shapes follow PEFT: a weight `W` is `(out_features, in_features)`, its update is `s * B @ A` with
`A` `(r, in_features)` and `B` `(out_features, r)`. Everything is computed in float32 at least, and
in float64 if an input is.
"""

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd import Function

from rankwright.algebra.block_products import (
    matmul_rows,
    row_blocks,
    rows_of_block,
    transposed_matmul,
)
from rankwright.algebra.precision import compute_dtype, nonzero

CANCELLATION = 1e-4  # below this share of |W_i|^2 the three-term sum has lost half its digits


def row_norm_sq(W: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return the squared Euclidean norm of every row, accumulated in float32 at least.

    Args:
        W: Matrix `(out_features, in_features)` of any floating-point dtype.
        dtype: Dtype of the sum; by default `compute_dtype(W)`.

    Returns:
        `(out_features,)`.
    """
    blocks = row_blocks(W, dtype or compute_dtype(W))
    return torch.cat([torch.linalg.vector_norm(block, dim=1) for block in blocks]).square()


def factored_row_norm(W: Tensor, A: Tensor, B: Tensor, s: float, base_norm_sq: Tensor) -> Tensor:
    r"""Return the row norms of `V = W + s B A` without forming `V`.

    The square of row `i` is, with `U = W A^T` `(out, r)` and `G = A A^T` `(r, r)`,
    `n^2 = c + 2 s rowsum(U * B) + s^2 rowsum((B G) * B)`, where `c` is the square of the row norm
    of `W`. Only rows with `n^2 < 1e-4 c`, where the sum cancels, are computed densely.
    Differentiable in `A` and `B`, also twice; a zero row has norm 0 and gradient 0. `W` gets no
    gradient.

    Source: the DoRA row norm (arXiv 2402.09353, eq. 5) in the factored form of arXiv 2603.22276.

    Args:
        W: Frozen weight `(out_features, in_features)`. A half-precision weight is cast block by
            block, never as a whole.
        A: Factor `(r, in_features)`.
        B: Factor `(out_features, r)`.
        s: Scaling of the product.
        base_norm_sq: `row_norm_sq(W)`, `(out_features,)`; constant while `W` is.

    Returns:
        `(out_features,)`, float64 if any input is, else float32.
    """
    dtype = compute_dtype(W, A, B, base_norm_sq)
    W, A, B, c = W.detach(), A.to(dtype), B.to(dtype), base_norm_sq.to(dtype)
    U = matmul_rows(W, A)
    n_sq = c + 2 * s * (U * B).sum(1) + s * s * ((B @ (A @ A.T)) * B).sum(1)
    cancelled = (n_sq.detach() < CANCELLATION * c).nonzero().squeeze(1)
    if len(cancelled):
        rows = W[cancelled].to(dtype) + s * (B[cancelled] @ A)
        n_sq = n_sq.index_put((cancelled,), rows.square().sum(1))
    return _safe_sqrt(n_sq)


class RowNorm(NamedTuple):
    """Row norms of `V = W + s B A`, and what their gradient needs.

    Attributes:
        n: `(out_features,)`, float64 if any input was, else float32.
        V_A: `A V^T` `(r, out_features)`, or None if it was not requested.
    """

    n: Tensor
    V_A: Tensor | None


@torch.no_grad()
def row_norm(W: Tensor, A: Tensor, B: Tensor, s: float, *, for_gradient: bool = False) -> RowNorm:
    """Return the row norms of `V = W + s B A`, forming one block of its rows at a time.

    It takes as many operations as `factored_row_norm`, but has no cancellation, and does not wait
    for the device to find out whether there was any.

    Args:
        W: Frozen weight `(out_features, in_features)`; half precision is cast block by block.
        A: Factor `(r, in_features)`.
        B: Factor `(out_features, r)`.
        s: Scaling of the product.
        for_gradient: Whether to compute `V_A`, which `attach_row_norm` needs.

    Returns:
        See `RowNorm`; without a graph.
    """
    dtype = compute_dtype(W, A, B)
    A, B = A.to(dtype), B.to(dtype)
    norms, products, size = [], [], rows_of_block(W)
    for start in range(0, len(W), size):
        rows = slice(start, start + size)
        V = torch.addmm(W[rows].to(dtype), B[rows], A, alpha=s)
        norms.append(torch.linalg.vector_norm(V, dim=1))
        if for_gradient:
            products.append(A @ V.T)
    return RowNorm(torch.cat(norms), torch.cat(products, dim=1) if for_gradient else None)


def attach_row_norm(norm: RowNorm, W: Tensor, A: Tensor, B: Tensor, s: float) -> Tensor:
    r"""Return the row norms of `row_norm`, differentiable in `A` and `B`.

    With `q = dL/dn / n`, `dL/dB = s diag(q) V A^T` and `dL/dA = s (q B)^T V`: one product of the
    size of `W A^T`. A second backward goes through `factored_row_norm`.

    Args:
        norm: `row_norm(W, A, B, s, for_gradient=True)`.
        W: The same weight as in `norm`.
        A: The same factor.
        B: The same factor.
        s: The same scaling.

    Returns:
        `(out_features,)`; a zero row has gradient 0.
    """
    return cast(Tensor, _RowNorm.apply(norm.n, norm.V_A, W.detach(), A, B, s))  # type: ignore[no-untyped-call]


def _safe_sqrt(n_sq: Tensor) -> Tensor:
    """Return the square root, with value and gradient 0 where the argument is not positive."""
    positive = n_sq > 0
    return torch.where(positive, torch.where(positive, n_sq, 1.0).sqrt(), 0.0)


class _RowNorm(Function):
    """`(A, B) -> n` with `n` already computed; the class adds the gradient."""

    @staticmethod
    def forward(ctx: Any, n: Tensor, V_A: Tensor, W: Tensor, A: Tensor, B: Tensor, s: float) -> Any:
        ctx.s = s
        ctx.save_for_backward(n, V_A, W, A, B)
        return n.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        n, V_A, W, A, B = ctx.saved_tensors
        s, needs = ctx.s, ctx.needs_input_grad[3:5]
        if torch.is_grad_enabled():
            wanted = [factor for factor, need in zip((A, B), needs, strict=True) if need]
            with torch.enable_grad():
                again = factored_row_norm(W, A, B, s, row_norm_sq(W))
            found = iter(torch.autograd.grad(again, wanted, grad, create_graph=True))
            return None, None, None, *(next(found) if need else None for need in needs), None
        q = torch.where(n > 0, grad / nonzero(n), 0.0)
        wide_A, wide_B = A.to(n.dtype), B.to(n.dtype)
        dA = dB = None
        if needs[0]:
            qB = q[:, None] * wide_B
            qBW = transposed_matmul(qB, W)  # the only product with W: that of dB is in V_A
            dA = s * qBW + s * s * (qB.T @ wide_B) @ wide_A
        if needs[1]:
            dB = s * q[:, None] * V_A.T
        return None, None, None, dA, dB, None
