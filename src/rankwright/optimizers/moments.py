"""Moments in weight space: matrices (out, in) kept as float32, bfloat16 or 8-bit blocks.

They are read and written by blocks of rows, so that no other matrix of that size is alive. Both
small formats round stochastically: a second moment changes by a factor b2 = 0.999 a step, less than
half a step of bfloat16 (2^-8) or of an 8-bit code, and rounded to nearest it would never decay.
Rounded up with the probability of the remainder, what is kept is right on average.

An 8-bit code c of a block of 256 numbers of a row, m being the largest modulus, stands for

    m (c / 255)^4, c = 1..255  (second moment)      m sign(c) (c / 127)^4, c = -127..127  (first)

whose relative steps are 4 / c: fine near the largest, over nine orders of magnitude in all. The
second moment has no code for 0, by which an update would be divided.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from rankwright.algebra.precision import compute_dtype

Format = Literal["float32", "bfloat16", "8bit"]
FORMATS = get_args(Format)

BLOCK = 256
"""Numbers of a row that share a scale."""

ROWS_NUMBERS = {"cpu": 1 << 18, "cuda": 1 << 24}
"""Numbers of the blocks of rows: a CPU's cache, a GPU's few large kernels."""

_CODES = {torch.uint8: 255, torch.int8: 127}


def on(device: torch.device, tensor: Tensor) -> Tensor:
    """A tensor on a device; in the host's memory pinned, where there is a GPU to copy to."""
    tensor = tensor.to(device)
    return tensor.pin_memory() if device.type == "cpu" and torch.cuda.is_available() else tensor


def row_blocks(out_features: int, in_features: int, device: torch.device) -> Iterator[slice]:
    """Slices of whole rows that cover a matrix."""
    numbers = ROWS_NUMBERS["cpu" if device.type == "cpu" else "cuda"]
    rows = max(1, numbers // in_features)
    return (slice(start, start + rows) for start in range(0, out_features, rows))


def dither(step: int, out_features: int, in_features: int, device: torch.device) -> Tensor:
    """The draw that decides on rounding up, one number for every entry of a block of rows.

    A pure function of the arguments: a resumed run rounds as the uninterrupted one would have. All
    blocks of a step, and both moments, share it; entries of a block are independent.

    Returns:
        int32 in [0, 2^16), `(rows, in)`.
    """
    rows = next(row_blocks(out_features, in_features, device))
    generator = torch.Generator(device).manual_seed(step)
    return torch.randint(
        *(0, 1 << 16, (min(rows.stop, out_features), in_features)),
        generator=generator,
        dtype=torch.int32,
        device=device,
    )


@dataclass(frozen=True)
class Moment:
    """A matrix in one of the formats.

    Attributes:
        values: (out, in): numbers, or codes.
        scales: Of 8-bit blocks: the largest modulus of each, (out, in / 256 rounded up).
    """

    values: Tensor
    scales: Tensor | None = None

    @classmethod
    def zeros(
        cls,
        shape: tuple[int, int],
        form: Format,
        *,
        signed: bool,
        dtype: torch.dtype,
        device: torch.device,
    ) -> Moment:
        """A moment at its start.

        Args:
            shape: (out, in).
            form: The format.
            signed: Whether it has negative entries.
            dtype: What "float32" means: float64 where the factors are.
            device: Where it is kept.
        """
        kind = {"float32": dtype, "bfloat16": torch.bfloat16}
        codes = torch.int8 if signed else torch.uint8
        values = on(device, torch.zeros(shape, dtype=kind.get(form, codes), device=device))
        if form != "8bit":
            return cls(values)
        blocks = (shape[0], math.ceil(shape[1] / BLOCK))
        return cls(values, on(device, torch.zeros(blocks, device=device)))

    def read(self, rows: slice, device: torch.device) -> Tensor:
        """A copy of some rows, (rows, in), float32 at least."""
        values = self.values[rows].to(device)
        if self.scales is None:
            return values.to(compute_dtype(values), copy=True)
        return _decoded(values) * _spread(self.scales[rows].to(device), values.shape[1])

    def write(self, rows: slice, exact: Tensor, draw: Tensor | None) -> None:
        """Keep some rows.

        Args:
            rows: Which.
            exact: (rows, in).
            draw: `dither` of the step; None where nothing is rounded.
        """
        if draw is None:
            self.values[rows] = exact.to(self.values.device)
            return
        exact, draw = exact.float(), draw[: len(exact)]
        if self.scales is None:
            self.values[rows] = _to_bfloat16(exact, draw).to(self.values.device)
            return
        scales = _block_max(exact)
        shares = exact / _spread(scales.clamp(min=torch.finfo().tiny), exact.shape[1])
        codes = _encoded(shares, draw, self.values.dtype)
        self.scales[rows] = scales.to(self.values.device)
        self.values[rows] = codes.to(self.values.device)


def _to_bfloat16(exact: Tensor, draw: Tensor) -> Tensor:
    """Drop the low 16 bits, after a number in [0, 2^16) was added to them."""
    return exact.view(torch.int32).add(draw).bitwise_and_(-(1 << 16)).view(torch.float32).bfloat16()


def _decoded(codes: Tensor) -> Tensor:
    """Codes as shares of their block's largest modulus, in [-1, 1]."""
    root = codes.float().div_(_CODES[codes.dtype])
    return root.abs().pow_(3).mul_(root)


def _encoded(shares: Tensor, draw: Tensor, codes: torch.dtype) -> Tensor:
    """The code below or above each share, with the probability that makes the mean right."""
    top = _CODES[codes]
    sign = shares.sign()
    share = shares.abs_()
    root = share.sqrt().sqrt_().mul_(top).floor_().clamp_(1 if codes == torch.uint8 else 0, top - 1)
    low = (root / top).square_().square_()
    high = ((root + 1) / top).square_().square_()
    up = high.sub_(low).mul_(draw).mul_(2.0**-16).lt(share.sub_(low))
    return root.add_(up).mul_(sign).to(codes) if codes == torch.int8 else root.add_(up).to(codes)


def _block_max(exact: Tensor) -> Tensor:
    """Largest modulus of every block, (rows, blocks)."""
    padded = torch.nn.functional.pad(exact, (0, -exact.shape[1] % BLOCK))
    return padded.view(len(exact), -1, BLOCK).abs().amax(-1)


def _spread(scales: Tensor, columns: int) -> Tensor:
    """Scales (rows, blocks) as (rows, columns)."""
    return scales.repeat_interleave(BLOCK, dim=1)[:, :columns]
