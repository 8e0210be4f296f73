"""Products with a half-precision weight, which is cast in blocks of rows and never as a whole."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

BLOCK_NUMBERS = 1 << 20  # entries of W that are cast to float32 at a time: 4 MiB


def rows_of_block(W: Tensor) -> int:
    """Return the number of rows of `W` to cast at a time, at least 1."""
    return max(1, BLOCK_NUMBERS // max(1, W.shape[1]))


def row_blocks(W: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    """Yield `W` in `dtype`: as a whole if it has that dtype, else in blocks of rows."""
    rows = len(W) if W.dtype == dtype else rows_of_block(W)
    return (block.to(dtype) for block in torch.split(W, max(1, rows)))


def matmul_rows(W: Tensor, A: Tensor) -> Tensor:
    """Return `W A^T` `(out, r)` in the dtype of `A`, without a whole cast copy of `W`."""
    return W @ A.T if W.dtype == A.dtype else _BlockMatmul.apply(W, A)  # type: ignore[no-untyped-call]


def transposed_matmul(U: Tensor, W: Tensor) -> Tensor:
    """Return `U^T W` `(r, in)` in the dtype of `U` `(out, r)`, without a whole cast copy of `W`."""
    return U.T @ W if W.dtype == U.dtype else _BlockMatmulT.apply(W, U)  # type: ignore[no-untyped-call]


class _BlockMatmul(Function):
    """`(W, A) -> W A^T`, linear in `A`; its backward is `_BlockMatmulT` and vice versa."""

    @staticmethod
    def forward(ctx: FunctionCtx, W: Tensor, A: Tensor) -> Tensor:
        ctx.save_for_backward(W)
        return torch.cat([block @ A.T for block in row_blocks(W, A.dtype)])

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
        for block in row_blocks(W, U.dtype):
            product.addmm_(U[start : start + len(block)].T, block)
            start += len(block)
        return product

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[None, Tensor]:
        (W,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return None, _BlockMatmul.apply(W, grad)  # type: ignore[no-untyped-call]
