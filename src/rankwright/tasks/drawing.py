"""Draws that depend on nothing but the rows and a seed: the same on every machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence


def position(key: Sequence[object], seed: int) -> float:
    """Return a number in [0, 1) that depends on nothing but the key and the seed.

    It is a hash, so a row keeps its side of a split when others are added or reordered.
    """
    text = json.dumps([seed, *key], ensure_ascii=False, default=str)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6]) / 2**48  # 48 bits are exact in a float


def draw_rows(classes: Sequence[object], count: int, seed: int) -> list[int]:
    """Draw rows so that every class keeps its share and every row has the same chance.

    Rows are sorted by class and, within a class, by a hash; then `count` of them are taken at equal
    distances from a random start (systematic sampling). A class with `n` of all `N` rows gets
    `count * n / N` of them, rounded up or down.

    Args:
        classes: The class of every row; all equal if there are no classes.
        count: Number of rows to draw.
        seed: Seed of the draw.

    Returns:
        Row indices, in ascending order. They are the same on every machine and for every model.
    """
    size = len(classes)
    if count >= size:
        return list(range(size))
    order = sorted(range(size), key=lambda row: (str(classes[row]), position([row], seed)))
    start = int(position(["start"], seed) * size)  # in [0, size)
    return sorted(order[(number * size + start) // count] for number in range(count))
