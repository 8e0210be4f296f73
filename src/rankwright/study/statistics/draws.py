"""A metric on resampled rows, for every metric there is.

All metrics but Spearman's correlation are functions of sums over rows (right rows, entities found,
moments, matched n-grams), which are computed for all draws at once as counts @ columns; that one is
computed draw by draw.
`tests/study/test_draws.py` holds the first against the second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import sacrebleu
from sacrebleu.metrics.bleu import BLEU
from seqeval.metrics.sequence_labeling import get_entities

from rankwright.study.records.examples import Examples
from rankwright.tasks.metrics import METRICS

Floats = npt.NDArray[np.float64]

DRAWS = 2000
SLOW_DRAWS = 200  # a standard error from 200 draws is itself within some 5 %
_CHUNK_NUMBERS = 4_000_000  # counts held at once, 32 MB


@dataclass(frozen=True)
class RowSums:
    """A metric as a function of sums over rows.

    Attributes:
        columns: What is summed, (rows, columns).
        figure: The metric from sums of the columns, (draws, columns) to (draws,).
    """

    columns: Floats
    figure: Callable[[Floats], Floats]


def on_draws(examples: Examples, seed: int = 0) -> Floats:
    """The metric of a run on resampled rows, (draws,).

    Runs with the same number of rows get the same draws, so that figures can be subtracted.

    Args:
        examples: Outcomes of the run, row by row.
        seed: Seed of the draws.
    """
    rows = len(examples.ids)
    sums = row_sums(examples)
    if sums is None:
        return _one_by_one(examples, seed)
    totals = [counts @ sums.columns for counts in row_counts(rows, DRAWS, seed)]
    return sums.figure(np.concatenate(totals))


def row_counts(rows: int, draws: int, seed: int) -> Iterator[Floats]:
    """How often each row is in each draw with replacement, (some draws, rows) at a time."""
    generator = np.random.default_rng(seed)
    chunk = max(1, _CHUNK_NUMBERS // rows)
    for start in range(0, draws, chunk):
        size = min(chunk, draws - start)
        yield generator.multinomial(rows, np.full(rows, 1 / rows), size).astype(np.float64)


def row_sums(examples: Examples) -> RowSums | None:
    """The run's metric as a function of sums over rows; None where it is none."""
    make = _SUMS.get(examples.metric)
    return None if make is None else make(examples.predictions, examples.labels)


def _one_by_one(examples: Examples, seed: int) -> Floats:
    rows = np.arange(len(examples.ids))
    return np.array(
        [
            examples.compute(np.repeat(rows, draw.astype(int)))
            for counts in row_counts(len(rows), SLOW_DRAWS, seed)
            for draw in counts
        ]
    )


Values = Sequence[Any]


def _mean(each: Callable[[Any, Any], float]) -> Callable[[Values, Values], RowSums]:
    """A metric that is the mean of a figure a row."""

    def sums(predictions: Values, labels: Values) -> RowSums:
        figures = [each(p, y) for p, y in zip(predictions, labels, strict=True)]
        return RowSums(
            np.array(figures, dtype=np.float64)[:, None], lambda t: t[:, 0] / len(labels)
        )

    return sums


def _indicators(predictions: Values, labels: Values) -> tuple[Floats, Floats]:
    """Which labels were named and which are there, both (rows, labels) of 0 and 1."""
    named, there = np.asarray(predictions, dtype=int), np.asarray(labels, dtype=int)
    if named.ndim == 2:  # sets
        return named.astype(float), there.astype(float)
    classes = np.union1d(named, there)
    return (named[:, None] == classes).astype(float), (there[:, None] == classes).astype(float)


def _f1(named: Floats, there: Floats, both: Floats) -> Floats:
    """2 both / (named + there), and 0 where that is 0 / 0."""
    total = named + there
    return np.divide(2 * both, total, out=np.zeros_like(total), where=total > 0)


Counts = Floats  # (draws, labels)


def _by_label(
    figure: Callable[[Counts, Counts, Counts], Floats],
) -> Callable[[Values, Values], RowSums]:
    """A metric of how many rows were named so, are so, and both, for each label."""

    def sums(predictions: Values, labels: Values) -> RowSums:
        named, there = _indicators(predictions, labels)
        columns = np.concatenate([named, there, named * there], axis=1)
        return RowSums(columns, lambda totals: figure(*np.split(totals, 3, axis=1)))

    return sums


def _macro_f1(predictions: Values, labels: Values) -> RowSums:
    """Mean over labels; a class that is neither named nor there does not count, as in sklearn."""

    def of_sets(named: Counts, there: Counts, both: Counts) -> Floats:
        return _sum(_f1(named, there, both)) / float(named.shape[1])

    def of_classes(named: Counts, there: Counts, both: Counts) -> Floats:
        return _sum(_f1(named, there, both)) / _sum(named + there > 0)

    sets = isinstance(predictions[0], Sequence)
    return _by_label(of_sets if sets else of_classes)(predictions, labels)


def _micro_f1(named: Counts, there: Counts, both: Counts) -> Floats:
    return _f1(_sum(named), _sum(there), _sum(both))


def _matthews(named: Counts, there: Counts, both: Counts) -> Floats:
    """Gorodkin's R_K, which is Matthews' coefficient for two classes; 0 where undefined."""
    rows = _sum(named)
    covariance = _sum(both) * rows - _sum(named * there)
    scale = np.sqrt((rows**2 - _sum(named**2)) * (rows**2 - _sum(there**2)))
    return np.divide(covariance, scale, out=np.zeros_like(rows), where=scale > 0)


def _sum(counts: Counts | npt.NDArray[np.bool_]) -> Floats:
    """Over the labels, (draws,)."""
    total: Floats = counts.sum(axis=1, dtype=np.float64)
    return total


def _binary_f1(predictions: Values, labels: Values) -> RowSums:
    named, there = np.asarray(predictions) == 1, np.asarray(labels) == 1
    columns = np.stack([named, there, named & there], axis=1).astype(float)
    return RowSums(columns, lambda totals: _f1(*totals.T))


def _entity_f1(predictions: Values, labels: Values) -> RowSums:
    columns = []
    for tags, right in zip(predictions, labels, strict=True):
        named, there = {*get_entities(list(tags))}, {*get_entities(list(right))}
        columns.append((len(named), len(there), len(named & there)))
    return RowSums(np.array(columns, dtype=float), lambda totals: _f1(*totals.T))


def _tag_accuracy(predictions: Values, labels: Values) -> RowSums:
    columns = [
        (sum(tag == there for tag, there in zip(tags, right, strict=True)), len(right))
        for tags, right in zip(predictions, labels, strict=True)
    ]
    return RowSums(
        np.array(columns, dtype=float), lambda totals: totals[:, 0] / np.maximum(totals[:, 1], 1)
    )


def _pearson(predictions: Values, labels: Values) -> RowSums:
    x, y = (np.asarray(v, dtype=float) - np.mean(v) for v in (predictions, labels))
    columns = np.stack([x, y, x * x, y * y, x * y], axis=1)

    def figure(totals: Floats) -> Floats:
        x, y, xx, yy, xy = totals.T / len(labels)
        x_var, y_var = xx - x * x, yy - y * y
        varies = (x_var > 1e-12 * xx) & (y_var > 1e-12 * yy)  # beyond rounding
        scale = np.sqrt(np.where(varies, x_var * y_var, 1.0))
        return np.where(varies, (xy - x * y) / scale, 0.0)

    return RowSums(columns, figure)


def _bleu(predictions: Values, labels: Values) -> RowSums:
    """Lengths, matched and all n-grams, of which sacrebleu's corpus BLEU is a function."""
    columns = []
    for text, references in zip(predictions, labels, strict=True):
        row = sacrebleu.sentence_bleu(text, list(references))
        columns.append((row.sys_len, row.ref_len, *row.counts, *row.totals))

    def figure(totals: Floats) -> Floats:
        orders = (totals.shape[1] - 2) // 2
        drawn = totals.astype(int).tolist()
        return np.array(
            [
                BLEU.compute_bleu(draw[2 : 2 + orders], draw[2 + orders :], *draw[:2], "exp").score
                for draw in drawn
            ]
        )

    return RowSums(np.array(columns, dtype=float), figure)


def _loss_per_token(nats: Values, tokens: Values) -> RowSums:
    columns = np.stack([nats, tokens], axis=1).astype(float)
    return RowSums(columns, lambda totals: totals[:, 0] / totals[:, 1])


def _perplexity(nats: Values, tokens: Values) -> RowSums:
    sums = _loss_per_token(nats, tokens)

    def figure(totals: Floats) -> Floats:
        with np.errstate(over="ignore"):
            return np.exp(sums.figure(totals))

    return RowSums(sums.columns, figure)


_SUMS: dict[str, Callable[[Values, Values], RowSums]] = {
    "accuracy": _mean(METRICS["accuracy"].each),
    "exact_number": _mean(METRICS["exact_number"].each),
    "macro_f1": _macro_f1,
    "micro_f1": _by_label(_micro_f1),
    "binary_f1": _binary_f1,
    "matthews": _by_label(_matthews),
    "pearson": _pearson,
    "mse": _mean(lambda prediction, label: (prediction - label) ** 2),
    "entity_f1": _entity_f1,
    "tag_accuracy": _tag_accuracy,
    "bleu": _bleu,
    "loss_per_token": _loss_per_token,
    "perplexity": _perplexity,
}
