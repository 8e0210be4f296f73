"""Small algebra on low-rank products: row norms, truncation, all without the `out x in` matrix.

Shapes follow PEFT: a weight `W` is `(out_features, in_features)`, its update is `s * B @ A` with
`A` `(r, in_features)` and `B` `(out_features, r)`. Everything is computed in float32 at least;
float64 in gives float64 out.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

BLOCK_NUMBERS = 1 << 20  # numbers of W that are cast to float32 at a time: 4 MiB
CANCELLATION = 1e-4  # below this share of |W_i|^2 the three-term sum has lost half its digits


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """The dtype in which algebra on these tensors is done: float64 if one of them is, else float32.

    Args:
        tensors: Any floating-point tensors.

    Returns:
        `torch.float32` or `torch.float64`.
    """
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def row_norm_sq(W: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Squared Euclidean norm of every row, accumulated in float32 at least.

    Args:
        W: Matrix `(out_features, in_features)` of any floating-point dtype.
        dtype: Dtype of the sum; by default `compute_dtype(W)`.

    Returns:
        `(out_features,)`.
    """
    blocks = _row_blocks(W, dtype or compute_dtype(W))
    return torch.cat([torch.linalg.vector_norm(block, dim=1) for block in blocks]).square()


def factored_row_norm(W: Tensor, A: Tensor, B: Tensor, s: float, base_norm_sq: Tensor) -> Tensor:
    r"""Row norms of `V = W + s B A` without forming `V`.

    The square of row `i` is, with `U = W A^T` `(out, r)` and `G = A A^T` `(r, r)`,
    `n^2 = c + 2 s rowsum(U * B) + s^2 rowsum((B G) * B)`, where `c` is the square of the row norm
    of `W`. Rows with `n^2 < 1e-4 c`, where the sum cancels, are computed densely, and only those.
    Differentiable in `A` and `B`, twice if need be; a zero row has norm 0 and gradient 0. `W` gets
    no gradient.

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
    U = _matmul_rows(W, A)
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
        V_A: `A V^T` `(r, out_features)`, or None if it was not asked for.
    """

    n: Tensor
    V_A: Tensor | None


@torch.no_grad()
def row_norm(W: Tensor, A: Tensor, B: Tensor, s: float, *, for_gradient: bool = False) -> RowNorm:
    """Row norms of `V = W + s B A`, from blocks of its rows that are dropped at once.

    As many operations as `factored_row_norm`, without cancellation, and without waiting for a
    device to say whether there was any.

    Args:
        W: Frozen weight `(out_features, in_features)`; half precision is cast block by block.
        A: Factor `(r, in_features)`.
        B: Factor `(out_features, r)`.
        s: Scaling of the product.
        for_gradient: Whether `attach_row_norm` will want `V_A`.

    Returns:
        See `RowNorm`; without a graph.
    """
    dtype = compute_dtype(W, A, B)
    A, B = A.to(dtype), B.to(dtype)
    norms, products, size = [], [], max(1, BLOCK_NUMBERS // max(1, W.shape[1]))
    for start in range(0, len(W), size):
        rows = slice(start, start + size)
        V = torch.addmm(W[rows].to(dtype), B[rows], A, alpha=s)
        norms.append(torch.linalg.vector_norm(V, dim=1))
        if for_gradient:
            products.append(A @ V.T)
    return RowNorm(torch.cat(norms), torch.cat(products, dim=1) if for_gradient else None)


def attach_row_norm(norm: RowNorm, W: Tensor, A: Tensor, B: Tensor, s: float) -> Tensor:
    r"""The row norms of `row_norm`, with a gradient to `A` and `B`.

    With `q = dL/dn / n`, `dL/dB = s diag(q) V A^T` and `dL/dA = s (q B)^T V`: one product of the
    size of `W A^T`. A second backward goes through `factored_row_norm`.

    Args:
        norm: `row_norm(W, A, B, s, for_gradient=True)`.
        W: As it was.
        A: As it was.
        B: As it was.
        s: As it was.

    Returns:
        `(out_features,)`; a zero row has gradient 0.
    """
    return cast(Tensor, _RowNorm.apply(norm.n, norm.V_A, W.detach(), A, B, s))  # type: ignore[no-untyped-call]


def no_autocast(tensor: Tensor) -> AbstractContextManager[Any]:
    """Autocast off on the tensor's device, where it is on: to enter it costs as much as a product.

    Args:
        tensor: Any.
    """
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def nonzero(n: Tensor) -> Tensor:
    """`n` with 1 for 0: a zero row stays zero whatever it is divided by."""
    return n.masked_fill(n == 0, 1.0)


def row_gram(W: Tensor) -> Tensor:
    """Products of all pairs of rows, `W W^T`.

    Args:
        W: Matrix `(out_features, in_features)` of any floating-point dtype.

    Returns:
        `(out_features, out_features)`, float32 at least.
    """
    W = W.to(compute_dtype(W))
    return W @ W.T


class BaseGram(NamedTuple):
    """The products of all pairs of rows of a frozen weight, in the form that is used again.

    Attributes:
        diagonal: `|W_i|^2`, `(out_features,)`.
        off: `W W^T` with diagonal 0, `(out_features, out_features)`.
        off_sq: `off` squared entry by entry.
    """

    diagonal: Tensor
    off: Tensor
    off_sq: Tensor


def base_gram(W: Tensor) -> BaseGram:
    """The constant part of `factored_cosines_sq`; costs `out^2 in` operations, once."""
    gram = row_gram(W)
    diagonal = gram.diagonal().clone()
    gram.fill_diagonal_(0)
    return BaseGram(diagonal, gram, gram.square())


def factored_cosines_sq(W: Tensor, A: Tensor, B: Tensor, s: float, base: BaseGram) -> Tensor:
    r"""Sum of squared cosines over all ordered pairs of different rows of `V = W + s B A`.

    `V V^T = G + C` with `G = W W^T` constant and `C = H B^T + B H^T`, `H = s W A^T + s^2/2 B A A^T`
    `(out, r)`. With `w_i = 1 / |V_i|^2` the sum over `i != j` of `w_i w_j (G + C)_ij^2` falls into
    three parts that need no `out x out` temporary:

        w^T (G o G) w  +  4 tr((w H)^T G (w B))  +  sum w_i w_j C_ij^2,

    the first two without the diagonal of `G`, the last from `2r x 2r` products less its diagonal.
    Differentiable in `A` and `B`; `W` gets no gradient.

    Args:
        W: Frozen weight `(out_features, in_features)`.
        A: Factor `(r, in_features)`.
        B: Factor `(out_features, r)`.
        s: Scaling of the product.
        base: `base_gram(W)`; constant while `W` is.

    Returns:
        A 0-dim tensor, float64 if any input is, else float32. A zero row has no cosine.
    """
    dtype = compute_dtype(W, A, B, base.off)
    A, B, base = A.to(dtype), B.to(dtype), BaseGram(*(part.to(dtype) for part in base))
    H = s * _matmul_rows(W.detach(), A) + s * s / 2 * (B @ (A @ A.T))
    c_diagonal = 2 * (H * B).sum(1)
    n_sq = base.diagonal + c_diagonal
    w = torch.where(n_sq > 0, 1 / torch.where(n_sq > 0, n_sq, 1.0), 0.0)
    wH, wB = w[:, None] * H, w[:, None] * B
    constant = (w * (base.off_sq @ w)).sum()
    mixed = 4 * (wH * (base.off @ wB)).sum()
    left, right = torch.cat([H, B], 1), torch.cat([B, H], 1)  # C = left right^T
    moved = ((left.T @ (w[:, None] * left)) * (right.T @ (w[:, None] * right))).sum()
    total: Tensor = constant + mixed + moved - (w * c_diagonal).square().sum()
    return total


class LowRank(NamedTuple):
    """A rank-R product and what the truncation cost.

    Attributes:
        A: `(R, in_features)`, rows orthogonal, `A A^T = diag(sigma)`.
        B: `(out_features, R)`, columns orthogonal, `B^T B = diag(sigma)`.
        dropped: The singular values left out, in descending order.
        relative_error: `|dropped| / |all singular values|`, i.e. the relative Frobenius error of
            `B @ A`; 0 for a zero matrix.
    """

    A: Tensor
    B: Tensor
    dropped: Tensor
    relative_error: float


def truncated_product(A: Tensor, B: Tensor, rank: int) -> LowRank:
    """Best approximation of `B @ A` of rank `rank` (Eckart-Young), without forming `B @ A`.

    `B = Q_B R_B` and `A^T = Q_A R_A` leave the singular values to the small core `R_B R_A^T`.

    Args:
        A: Factor `(r, in_features)`.
        B: Factor `(out_features, r)`.
        rank: Rank wanted; above the rank of the product the factors are padded with zeros.

    Returns:
        Balanced factors of exactly `rank` rows and columns, with the error made.

    Raises:
        ValueError: If `rank` is below 1 or above the smaller side of the product.
    """
    _check_rank(rank, B.shape[0], A.shape[1])
    dtype = compute_dtype(A, B)
    Q_B, R_B = torch.linalg.qr(B.to(dtype))
    Q_A, R_A = torch.linalg.qr(A.to(dtype).T)
    left, sigma, right = torch.linalg.svd(R_B @ R_A.T, full_matrices=False)
    return _balanced(Q_B @ left, sigma, right @ Q_A.T, rank)


def truncated_svd(delta: Tensor, rank: int) -> LowRank:
    """Best approximation of a dense matrix of rank `rank` (Eckart-Young).

    Args:
        delta: Matrix `(out_features, in_features)`.
        rank: Rank wanted.

    Returns:
        Balanced factors with the error made.

    Raises:
        ValueError: If `rank` is below 1 or above the smaller side of `delta`.
    """
    _check_rank(rank, delta.shape[0], delta.shape[1])
    left, sigma, right = torch.linalg.svd(delta.to(compute_dtype(delta)), full_matrices=False)
    return _balanced(left, sigma, right, rank)


def _balanced(left: Tensor, sigma: Tensor, right: Tensor, rank: int) -> LowRank:
    root = sigma[:rank].sqrt()
    missing = rank - len(root)
    A = torch.nn.functional.pad(root[:, None] * right[:rank], (0, 0, 0, missing))
    B = torch.nn.functional.pad(left[:, :rank] * root, (0, missing))
    dropped, total = sigma[rank:], float(sigma.norm())
    return LowRank(A, B, dropped, float(dropped.norm()) / total if total else 0.0)


def _check_rank(rank: int, out_features: int, in_features: int) -> None:
    largest = min(out_features, in_features)
    if not 1 <= rank <= largest:
        raise ValueError(
            f"rank {rank} does not fit a {out_features} x {in_features} matrix: "
            f"choose a rank from 1 to {largest}"
        )


def _safe_sqrt(n_sq: Tensor) -> Tensor:
    """Square root with value and gradient 0 where the argument is not positive."""
    positive = n_sq > 0
    return torch.where(positive, torch.where(positive, n_sq, 1.0).sqrt(), 0.0)


def _row_blocks(W: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    """`W` in `dtype`, as a whole if that is a view, else in blocks of rows."""
    rows = len(W) if W.dtype == dtype else max(1, BLOCK_NUMBERS // max(1, W.shape[1]))
    return (block.to(dtype) for block in torch.split(W, max(1, rows)))


def _matmul_rows(W: Tensor, A: Tensor) -> Tensor:
    """`W A^T` `(out, r)` in the dtype of `A`; a cast copy of `W` is never held."""
    return W @ A.T if W.dtype == A.dtype else _BlockMatmul.apply(W, A)  # type: ignore[no-untyped-call]


class _RowNorm(Function):
    """`(A, B) -> n`, computed already."""

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
            qBW = qB.T @ W if W.dtype == n.dtype else _BlockMatmulT.apply(W, qB)  # type: ignore[no-untyped-call]
            dA = s * qBW + s * s * (qB.T @ wide_B) @ wide_A
        if needs[1]:
            dB = s * q[:, None] * V_A.T
        return None, None, None, dA, dB, None


class _BlockMatmul(Function):
    """`(W, A) -> W A^T`, linear in `A`; its backward is `_BlockMatmulT` and vice versa."""

    @staticmethod
    def forward(ctx: FunctionCtx, W: Tensor, A: Tensor) -> Tensor:
        ctx.save_for_backward(W)
        return torch.cat([block @ A.T for block in _row_blocks(W, A.dtype)])

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[None, Tensor]:
        (W,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return None, _BlockMatmulT.apply(W, grad)  # type: ignore[no-untyped-call]


class _BlockMatmulT(Function):
    """`(W, U) -> U^T W` `(r, in)`, linear in `U` `(out, r)`."""

    @staticmethod
    def forward(ctx: FunctionCtx, W: Tensor, U: Tensor) -> Tensor:
        ctx.save_for_backward(W)
        product, start = U.new_zeros(U.shape[1], W.shape[1]), 0
        for block in _row_blocks(W, U.dtype):
            product.addmm_(U[start : start + len(block)].T, block)
            start += len(block)
        return product

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[None, Tensor]:
        (W,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return None, _BlockMatmul.apply(W, grad)  # type: ignore[no-untyped-call]
