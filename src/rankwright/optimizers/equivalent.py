"""The gradients of A and B whose joint effect on W is closest to the gradient of W itself.

With W = W0 + s B A and G = dL/dW (out, in), which is never formed, the factors' own gradients are
hA = s B^T G (r, in) and hB = s G A^T (out, r). A pair of directions (gA, gB) moves W by

    E = s B gA + s gB A.

LoRA-Pro (arXiv 2407.18242) takes the minimisers of |E - G|_F. With SA = A A^T, SB = B^T B (r, r),
P_A = A^T SA^-1 A and P_B = B SB^-1 B^T they are, for any X (r, r),

    gA = s^-2 SB^-1 hA + X A,    gB = s^-2 (I - P_B) hB SA^-1 - B X,

and E is the same for every X: the projection P_B G + G P_A - P_B G P_A of G on the tangent space of
the matrices of rank r at B A. Hence <G, E> = |E|^2, and <G, E> = <hA, gA> + <hB, gB>.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from rankwright.algebra.spectra import Spectrum, ridged_inverse, solve_sylvester, spectrum

XMode = Literal["sylvester", "symmetric", "zero"]


class Grams(NamedTuple):
    """The small products that X and both inverses come from; each `(..., r, r)`.

    Attributes:
        SA: A A^T.
        SB: B^T B.
        C: B^T hB, which is hA A^T: both are s B^T G A^T.
    """

    SA: Tensor
    SB: Tensor
    C: Tensor


class Coefficients(NamedTuple):
    """gA = K hA + X A and gB = hB L - B Y; each `(..., r, r)`."""

    K: Tensor
    X: Tensor
    L: Tensor
    Y: Tensor


def adjusted_gradients(
    A: Tensor,
    B: Tensor,
    hA: Tensor,
    hB: Tensor,
    s: float | Tensor,
    *,
    x_mode: XMode = "sylvester",
    delta: float = 1e-8,
    relative_delta: bool = False,
) -> tuple[Tensor, Tensor]:
    """The pair (gA, gB) of one LoRA pair, or of a batch of pairs of one shape.

    Args:
        A: `(..., r, in)`, float32 or float64.
        B: `(..., out, r)`.
        hA: Gradient of A.
        hB: Gradient of B.
        s: Scaling of the pair; of a batch `(..., 1, 1)`.
        x_mode: Which X. "sylvester": the least change of the gradients, min |gA - hA|^2 +
            |gB - hB|^2, hence SB X + X SA = -s^-2 SB^-1 hA A^T. "symmetric": A and B make equal
            parts of what either could make, X = -1/2 s^-2 SB^-1 (B^T hB) SA^-1. "zero": A makes it
            alone.
        delta: Ridge on SA and SB where they are inverted; with 0 their pseudo-inverse is taken.
            Directions that are rounding even with the ridge are left out; see `ridged_inverse`.
        relative_delta: Whether the ridge is `delta` times the mean of the Gram matrix's diagonal.

    Returns:
        gA `(..., r, in)` and gB `(..., out, r)`, in the dtype of A.
    """
    small = grams(A, B, hB)
    by = coefficients(small, s, x_mode=x_mode, delta=delta, relative_delta=relative_delta)
    return combined(A, B, hA, hB, by)


def grams(A: Tensor, B: Tensor, hB: Tensor) -> Grams:
    """First step of `adjusted_gradients`: products of long factors to small matrices."""
    return Grams(A @ A.mT, B.mT @ B, B.mT @ hB)


def coefficients(
    of: Grams, s: float | Tensor, *, x_mode: XMode, delta: float, relative_delta: bool
) -> Coefficients:
    """Second step: all that is `r x r`, for pairs of any shapes and one rank at once; float64."""
    SA, SB, C = spectrum(of.SA), spectrum(of.SB), of.C.double()
    rounding = torch.finfo(of.SA.dtype).eps
    SA_inv, SB_inv = (
        ridged_inverse(S, _mean_diagonal(S) * delta if relative_delta else delta, rounding)
        for S in (SA, SB)
    )
    K, L = SB_inv / s**2, SA_inv / s**2
    P = SB_inv @ C @ L  # P_B hB SA^-1 / s^2 = B P
    if x_mode == "sylvester":
        X = solve_sylvester(SB, SA, -K @ C)
    else:
        X = -0.5 * P if x_mode == "symmetric" else torch.zeros_like(P)
    return Coefficients(K, X, L, P + X)


def combined(
    A: Tensor, B: Tensor, hA: Tensor, hB: Tensor, by: Coefficients
) -> tuple[Tensor, Tensor]:
    """Last step: small matrices times long factors."""
    K, X, L, Y = (part.to(A.dtype) for part in by)
    gA, gB = K @ hA, hB @ L
    return gA.add_(X @ A), gB.sub_(B @ Y)


def equivalent_norm_sq(hA: Tensor, hB: Tensor, gA: Tensor, gB: Tensor) -> Tensor:
    """`|E|_F^2` of a pair (of each pair of a batch), without forming E."""
    return (hA * gA).sum((-2, -1)) + (hB * gB).sum((-2, -1))


def _mean_diagonal(S: Spectrum) -> Tensor:
    """That of the matrix, which is the mean of its eigenvalues."""
    return S.values.mean(-1, keepdim=True)
