"""The division of the training rows between the two levels."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch

from rankwright.core.run import Run
from rankwright.errors import MethodError


@dataclass(frozen=True)
class RowSplit:
    """Rows of both levels, ascending; both empty if the engine does not own the rows.

    Attributes:
        lower: D_tr.
        held_out: D_val.
    """

    lower: list[int]
    held_out: list[int]

    def digest(self, train_rows: int | None) -> str:
        """Return a digest of D_val and of the number of training rows."""
        drawn = repr((train_rows, self.held_out))
        return hashlib.blake2b(drawn.encode(), digest_size=8).hexdigest()


def split_rows(run: Run, share: float) -> RowSplit:
    """Draw the held-out rows of a run.

    Args:
        run: The run; nothing is set aside if the user passed held-out rows.
        share: Share of the training rows to hold out.

    Raises:
        MethodError: One of the levels would have no row.
    """
    total = run.train_rows()
    if total is None or run.own_held_out:
        return RowSplit([], [])
    size = round(share * total)
    if not 0 < size < total:
        raise MethodError(
            f"val_fraction={share} of {total} training rows leaves {size} held-out and "
            f"{total - size} lower-level rows; both need at least 1: change val_fraction, "
            "bring more rows, or pass a held-out set of your own"
        )
    shuffled = torch.randperm(total, generator=run.generator("bilevel split")).tolist()
    return RowSplit(sorted(shuffled[size:]), sorted(shuffled[:size]))
