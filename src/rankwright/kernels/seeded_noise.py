"""A Gaussian matrix that is kept as what it is drawn from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Noise:
    """A noise matrix `eps`, kept as what it is drawn from.

    Attributes:
        seed: Of the draw; the same seed gives the same matrix on the same type of device.
        std: Standard deviation of each row, `(out,)`, float32 or float64.
        in_features: Number of columns.
    """

    seed: int
    std: Tensor
    in_features: int

    def draw(self, dtype: torch.dtype) -> Tensor:
        """The matrix, rounded once.

        Args:
            dtype: Of the result; the draw is in that of `std`.

        Returns:
            `(out, in)` on the device of `std`. The global random state is left alone.
        """
        std = self.std
        generator = torch.Generator(std.device).manual_seed(self.seed)
        z = torch.randn(
            *(len(std), self.in_features), generator=generator, dtype=std.dtype, device=std.device
        )
        return z.mul_(std[:, None]).to(dtype)

    def on(self, W: Tensor) -> Tensor:
        """`W + eps`, a new matrix.

        Args:
            W: `(out, in)`.
        """
        return self.draw(W.dtype).add_(W)
