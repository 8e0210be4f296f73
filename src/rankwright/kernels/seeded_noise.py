"""A Gaussian matrix that is stored as its seed and drawn whenever it is needed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Noise:
    """A noise matrix `eps`, stored as its seed and the standard deviations of its rows.

    Attributes:
        seed: Seed of the draw; it determines the matrix on a given type of device.
        std: Standard deviation of each row, `(out,)`, float32 or float64.
        in_features: Number of columns.
    """

    seed: int
    std: Tensor
    in_features: int

    def draw(self, dtype: torch.dtype) -> Tensor:
        """Draw the matrix, without touching the global random state.

        Args:
            dtype: Dtype of the result; the draw is in that of `std` and rounded once.

        Returns:
            `(out, in)` on the device of `std`.
        """
        std = self.std
        generator = torch.Generator(std.device).manual_seed(self.seed)
        z = torch.randn(
            *(len(std), self.in_features), generator=generator, dtype=std.dtype, device=std.device
        )
        return z.mul_(std[:, None]).to(dtype)

    def on(self, W: Tensor) -> Tensor:
        """Return `W + eps`, a new matrix.

        Args:
            W: `(out, in)`.
        """
        return self.draw(W.dtype).add_(W)
