"""Resampling: the metric of a run on rows drawn with replacement."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rankwright.study.records.examples import Examples
from rankwright.tasks.metrics import METRICS
from rankwright.tasks.row_statistics import Floats

DRAWS = 2000
SLOW_DRAWS = 200
"""Draws of a metric that is computed draw by draw: a standard error from 200 is within some 5 %."""
_CHUNK_NUMBERS = 4_000_000  # counts held at once, 32 MB


def resample(examples: Examples, seed: int = 0) -> Floats:
    """Compute the metric of a run on rows drawn with replacement, (draws,).

    Runs with the same number of rows get the same draws, so that their figures can be subtracted.

    Args:
        examples: Outcomes of the run, row by row.
        seed: Seed of the draws.
    """
    statistics = METRICS[examples.metric].statistics(examples.predictions, examples.labels)
    draws = DRAWS if statistics.additive else SLOW_DRAWS
    chunks = draw_rows(len(examples.ids), draws, seed)
    return np.concatenate([statistics.resampled(counts) for counts in chunks])


def draw_rows(rows: int, draws: int, seed: int) -> Iterator[Floats]:
    """Yield how often each row is in each draw with replacement, (some draws, rows) at a time."""
    generator = np.random.default_rng(seed)
    chunk = max(1, _CHUNK_NUMBERS // rows)
    for start in range(0, draws, chunk):
        size = min(chunk, draws - start)
        yield generator.multinomial(rows, np.full(rows, 1 / rows), size).astype(np.float64)
