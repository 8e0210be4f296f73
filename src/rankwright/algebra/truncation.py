"""The best approximation of a matrix, or of a low-rank product, by a product of lower rank."""

from typing import NamedTuple

import torch
from torch import Tensor

from rankwright.algebra.precision import compute_dtype


class LowRank(NamedTuple):
    """A rank-R product and the error of the truncation.

    Attributes:
        A: `(R, in_features)`, rows orthogonal, `A A^T = diag(sigma)`.
        B: `(out_features, R)`, columns orthogonal, `B^T B = diag(sigma)`.
        dropped: The discarded singular values, in descending order.
        relative_error: `|dropped| / |all singular values|`, i.e. the relative Frobenius error of
            `B @ A`; 0 for a zero matrix.
    """

    A: Tensor
    B: Tensor
    dropped: Tensor
    relative_error: float


def truncated_product(A: Tensor, B: Tensor, rank: int) -> LowRank:
    """Return the best approximation of `B @ A` of rank `rank` (Eckart-Young), without forming it.

    With `B = Q_B R_B` and `A^T = Q_A R_A`, the small core `R_B R_A^T` has the same singular values.

    Args:
        A: Factor `(r, in_features)`.
        B: Factor `(out_features, r)`.
        rank: The target rank; above the rank of the product the factors are padded with zeros.

    Returns:
        Balanced factors of exactly `rank` rows and columns, and the error.

    Raises:
        ValueError: `rank` is below 1 or above the smaller side of the product.
    """
    _check_rank(rank, B.shape[0], A.shape[1])
    dtype = compute_dtype(A, B)
    Q_B, R_B = torch.linalg.qr(B.to(dtype))
    Q_A, R_A = torch.linalg.qr(A.to(dtype).T)
    left, sigma, right = torch.linalg.svd(R_B @ R_A.T, full_matrices=False)
    return _balanced(Q_B @ left, sigma, right @ Q_A.T, rank)


def truncated_svd(delta: Tensor, rank: int) -> LowRank:
    """Return the best approximation of rank `rank` of a dense matrix (Eckart-Young).

    Args:
        delta: Matrix `(out_features, in_features)`.
        rank: The target rank.

    Returns:
        Balanced factors and the error.

    Raises:
        ValueError: `rank` is below 1 or above the smaller side of `delta`.
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
