"""Which rows a step sees: a pure function of (seed, phase, step), so that a resumed run agrees."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch.utils.data import Sampler

from rankwright.core.engine import Engine
from rankwright.core.run import Run
from rankwright.errors import MethodError


def draw_rows(run: Run, rows: Sequence[int], start: int, count: int, *key: object) -> list[int]:
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

    def order(shuffle: int) -> list[int]:
        permutation = torch.randperm(len(rows), generator=run.generator(*key, shuffle))
        return [rows[i] for i in permutation.tolist()]

    if not rows:
        raise MethodError(f"no row to draw from for {key[0]!r}; give it a larger share of the data")
    return _stream(order, len(rows), start, count)


def _stream(order: Callable[[int], list[int]], size: int, start: int, count: int) -> list[int]:
    """`count` rows from position `start` of shuffle 0, shuffle 1, ..., of `size` rows each."""
    taken: list[int] = []
    while len(taken) < count:
        shuffle, offset = divmod(start + len(taken), size)
        taken += order(shuffle)[offset : offset + count - len(taken)]
    return taken


class PhaseSampler(Sampler[int]):
    """Rows for a procedure that restricts what its phases see.

    A phase goes through the shuffles that the Trainer's own sampler draws, from the first one, and
    leaves out what it may not see: methods with the same seed see rows in the same order. Every
    optimizer step takes exactly `per_step` rows, so a step never straddles two phases. An epoch is
    as many full steps as hold all training rows.

    Args:
        run: The run; its procedure says which rows a phase draws from.
        rows: Number of training rows.
        per_step: Rows of one optimizer step over all processes and micro-batches.
        seed: Seed of the shuffles; None for the run's.
    """

    def __init__(self, run: Engine, rows: int, per_step: int, seed: int | None = None) -> None:
        self._run = run
        self._rows = rows
        self._per_step = per_step
        self._seed = run.seed if seed is None else seed
        self._steps = -(-rows // per_step)
        self._epoch = 0
        self._order: tuple[int, int, list[int]] = (-1, -1, [])

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
        """The training rows of optimizer step `step` (0-based).

        Raises:
            MethodError: The phase has no row to draw from.
        """
        phase, done = self._run.phase_at(step)
        allowed = self._run.procedure.rows(phase)
        size = self._rows if allowed is None else len(allowed)
        if not size:
            raise MethodError(
                f"no row to draw from in phase {phase}; give it a larger share of the data"
            )
        start = done * self._per_step
        return _stream(
            lambda shuffle: self._shuffled(phase, shuffle, allowed), size, start, self._per_step
        )

    def _shuffled(self, phase: int, shuffle: int, allowed: Sequence[int] | None) -> list[int]:
        """All rows that the phase may see, in the order of accelerate's seeded sampler."""
        if self._order[:2] != (phase, shuffle):
            generator = torch.Generator().manual_seed(self._seed + shuffle)
            order = torch.randperm(self._rows, generator=generator).tolist()
            seen = range(self._rows) if allowed is None else set(allowed)
            self._order = (phase, shuffle, [row for row in order if row in seen])
        return self._order[2]
