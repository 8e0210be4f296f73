"""Which rows a step sees: a pure function of (seed, phase, step), so that a resumed run agrees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

from rankwright.core.errors import MethodError
from rankwright.core.run import Run


def endless_rows(run: Run, rows: Sequence[int], start: int, count: int, *key: object) -> list[int]:
    """`count` rows from position `start` of an endless stream of shuffles of `rows`.

    Args:
        run: Gives the seeded draws.
        rows: The rows to draw from; every shuffle holds each of them once.
        start: Position in the stream.
        count: How many to take.
        key: Names the stream.

    Raises:
        MethodError: There is no row to draw from.
    """
    if not rows:
        raise MethodError(f"no row to draw from for {key[0]!r}; give it a larger share of the data")
    taken: list[int] = []
    while len(taken) < count:
        shuffle, offset = divmod(start + len(taken), len(rows))
        order = torch.randperm(len(rows), generator=run.generator(*key, shuffle))
        piece = order[offset : offset + count - len(taken)]
        taken += [rows[i] for i in piece.tolist()]
    return taken


class PhaseSampler(Sampler[int]):
    """Rows for a procedure that restricts what its phases see.

    Every optimizer step takes exactly `per_step` rows, so a step never straddles two phases. An
    epoch is as many full steps as hold all training rows.

    Args:
        run: The run; its procedure says which rows a phase draws from.
        rows: Number of training rows.
        per_step: Rows of one optimizer step over all processes and micro-batches.
    """

    def __init__(self, run: Run, rows: int, per_step: int) -> None:
        self._run = run
        self._rows = rows
        self._per_step = per_step
        self._steps = -(-rows // per_step)
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer before each epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._steps * self._per_step

    def __iter__(self) -> Iterator[int]:
        first = self._epoch * self._steps
        for step in range(first, first + self._steps):
            yield from self.rows_of(step)

    def rows_of(self, step: int) -> list[int]:
        """The training rows of optimizer step `step` (0-based)."""
        phase, done = self._run.phase_at(step)
        allowed = self._run.procedure.rows(phase)
        return endless_rows(
            self._run,
            range(self._rows) if allowed is None else allowed,
            done * self._per_step,
            self._per_step,
            "rows",
            phase,
        )
