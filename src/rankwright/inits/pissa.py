"""PiSSA's start: the principal singular vectors of the weight (arXiv 2404.02948).

With W = U S V^T, A_0 = sqrt(S_r / s) V_r^T and B_0 = U_r sqrt(S_r / s): s B_0 A_0 is the best
approximation of W of rank r, and A_0 A_0^T = B_0^T B_0 = S_r / s.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rankwright.core.fields import check_field, none_or_at_least
from rankwright.core.part_registry import register_part
from rankwright.inits.companion import Companion


@register_part("pissa")
@dataclass(frozen=True)
class Pissa(Companion):
    """PiSSA (arXiv 2404.02948): the leading singular vectors of each weight.

    Attributes:
        niter: Power iterations of a randomised SVD, several times quicker; None for the exact one.
        seed: Seed of the randomised SVD. Every layer is given the same one, so equal weights get
            equal factors.
    """

    niter: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            MethodError: `niter` is negative.
        """
        counts = none_or_at_least(self.niter, 0)
        check_field(self, "niter", counts, "None (exact) or an integer of at least 0")

    def factors(self, W: Tensor, r: int, s: float) -> tuple[Tensor, Tensor]:
        """See `Companion.factors`."""
        if self.niter is None:
            U, S, Vh = torch.linalg.svd(W, full_matrices=False)
        else:
            U, S, Vh = randomised_svd(W, r, self.niter, self.seed)
        root = (S[:r] / s).sqrt()
        return root[:, None] * Vh[:r], U[:, :r] * root


def randomised_svd(W: Tensor, r: int, niter: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """The leading singular values and vectors, by subspace iteration on a random start.

    Halko, Martinsson, Tropp, arXiv 0909.4061, algorithms 4.4 and 5.1, on a subspace of 2 r
    dimensions (PEFT's has r, which costs accuracy).

    Args:
        W: Weight `(out, in)`.
        r: How many are wanted.
        niter: Power iterations; more where the singular values fall slowly.
        seed: Seed of the start. It is drawn on the CPU, so that it is the same on every device.

    Returns:
        `U` `(out, q)`, `S` `(q,)` and `V^T` `(q, in)`, `q = min(2 r, out, in)`.
    """
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(W.shape[1], min(2 * r, *W.shape), generator=generator)
    Q, _ = torch.linalg.qr(W @ start.to(W))
    for _ in range(niter):
        Z, _ = torch.linalg.qr(W.T @ Q)
        Q, _ = torch.linalg.qr(W @ Z)
    U, S, Vh = torch.linalg.svd(Q.T @ W, full_matrices=False)
    return Q @ U, S, Vh
