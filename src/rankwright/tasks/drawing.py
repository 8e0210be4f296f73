"""Draw the rows of a split to report on, if not all are wanted."""

from __future__ import annotations

from collections.abc import Sequence

from rankwright.tasks.sources import position


def drawn(classes: Sequence[object], count: int, seed: int) -> list[int]:
    """Draws rows so that every class keeps its share and every row has the same chance.

    Rows are sorted by class and, within a class, by a hash; then `count` of them are taken at equal
    distances from a random start (systematic sampling). Of a class with `n` of all `N` rows these
    are `count * n / N`, rounded up or down.

    Args:
        classes: The class of every row; all equal if there are no classes.
        count: How many rows to draw.
        seed: Decides which ones.

    Returns:
        Row indices, in ascending order. They are the same on every machine and for every model.
    """
    size = len(classes)
    if count >= size:
        return list(range(size))
    order = sorted(range(size), key=lambda row: (str(classes[row]), position([row], seed)))
    start = int(position(["start"], seed) * size)  # in [0, size)
    return sorted(order[(number * size + start) // count] for number in range(count))
