"""Metrics by name, each a function of statistics of the rows.

A metric compares predictions with references in one of these forms:

========  ==================================  =============================================
form      predictions                         references
========  ==================================  =============================================
classes   class indices, (rows,)              class indices, (rows,)
sets      0/1 matrix, (rows, classes)         0/1 matrix, (rows, classes)
numbers   floats, (rows,)                     floats, (rows,)
tags      a list of tags per row              a list of tags per row
texts     a text per row                      a list of acceptable texts per row
nats      summed -log p per row, (rows,)      scored tokens per row, (rows,)
========  ==================================  =============================================

Every metric but Spearman's correlation is a function of sums over rows: correct rows, entities
found, matched n-grams. One definition therefore gives the metric of a split and, as one matrix
product, of thousands of resampled splits (`row_statistics.py`). The tests compare each with
scikit-learn, SciPy, seqeval or sacrebleu, to the last bit on a whole split.

The libraries are imported where a metric is computed, because together they take seconds to import
and a task needs only the table.

A metric that is mathematically undefined (a correlation with a constant, an F1 of nothing) is
0.0, without a warning.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

import numpy as np

from rankwright.tasks.errors import TaskError, suggestion
from rankwright.tasks.row_statistics import (
    Floats,
    RowStatistics,
    RowSums,
    Values,
    by_label,
    mean,
    sum_labels,
)

Form = Literal["classes", "sets", "numbers", "tags", "texts", "nats"]


@dataclass(frozen=True)
class Outcome:
    """The predictions of a model for the rows of a split, with the references.

    Attributes:
        predictions: One entry per row, in the order of the rows.
        references: One entry per row, in the same order.
    """

    predictions: Values
    references: Values


@dataclass(frozen=True)
class Metric:
    """A named figure of merit.

    Attributes:
        name: The key in results.
        statistics: Statistics of the rows, from predictions and references in this order.
        score_row: The score of one row from its prediction and its reference, larger is better.
        forms: The forms of predictions it understands.
        greater_is_better: Whether to look for its maximum.
        low: The smallest possible value.
        high: The largest possible value.
    """

    name: str
    statistics: Callable[[Values, Values], RowStatistics]
    score_row: Callable[[Any, Any], float]
    forms: frozenset[Form]
    greater_is_better: bool = True
    low: float = 0.0
    high: float = 1.0

    def compute(self, predictions: Values, references: Values) -> float:
        """Return the metric of all rows."""
        return self.statistics(predictions, references).value()


def score_equality(prediction: Any, reference: Any) -> float:
    """Return 1.0 for a correct row, else 0.0; a set is correct if every label in it is."""
    return float(prediction == reference)


def squared_error(prediction: float, reference: float) -> float:
    """Return the squared error of a row, in squared units of the target."""
    return (prediction - reference) ** 2


def score_closeness(prediction: float, reference: float) -> float:
    """Return minus the squared error of a row."""
    return -squared_error(prediction, reference)


def _f1(named: Floats, present: Floats, both: Floats) -> Floats:
    """Return 2 both / (named + present), and 0 where that is 0 / 0."""
    total = named + present
    return np.divide(2 * both, total, out=np.zeros_like(total), where=total > 0)


def macro_f1(predictions: Values, references: Values) -> RowSums:
    """Return the statistics of the mean F1 of the labels.

    A label of sets that is neither named nor present counts as 0; such a class does not count at
    all, as in scikit-learn.
    """
    sets = np.ndim(references) == 2

    def figure(named: Floats, present: Floats, both: Floats) -> Floats:
        labels = float(named.shape[1]) if sets else sum_labels(named + present > 0)
        return sum_labels(_f1(named, present, both)) / labels

    return by_label(predictions, references, figure)


def micro_f1(predictions: Values, references: Values) -> RowSums:
    """Return the statistics of the F1 of all decisions pooled: accuracy, if rows have one class."""

    def figure(named: Floats, present: Floats, both: Floats) -> Floats:
        return _f1(sum_labels(named), sum_labels(present), sum_labels(both))

    return by_label(predictions, references, figure)


def binary_f1(predictions: Values, references: Values) -> RowSums:
    """Return the statistics of the F1 of class 1 in a task of two classes (MRPC, QQP)."""
    named, present = np.asarray(predictions) == 1, np.asarray(references) == 1
    columns = np.stack([named, present, named & present], axis=1).astype(float)
    return RowSums(columns, lambda sums: _f1(*sums.T))


def matthews(predictions: Values, references: Values) -> RowSums:
    """Return the statistics of Matthews' correlation, -1 to 1 (Gorodkin's R_K for many classes)."""

    def figure(named: Floats, present: Floats, both: Floats) -> Floats:
        rows = sum_labels(named)
        covariance = sum_labels(both) * rows - sum_labels(named * present)
        variances = (rows**2 - sum_labels(n**2) for n in (named, present))
        scale = np.sqrt(math.prod(variances))
        return np.divide(covariance, scale, out=np.zeros_like(rows), where=scale > 0)

    return by_label(predictions, references, figure)


def pearson(predictions: Values, references: Values) -> RowSums:
    """Return the statistics of Pearson's linear correlation, -1 to 1.

    The value of all rows is SciPy's, which subtracts the means first. Draws are computed from
    moments: 2000 draws of 1500 rows take 3 ms so, and 0.3 s in SciPy.
    """
    x, y = (np.asarray(v, dtype=float) - np.mean(v) for v in (predictions, references))
    columns = np.stack([x, y, x * x, y * y, x * y], axis=1)

    def figure(sums: Floats) -> Floats:
        x, y, xx, yy, xy = sums.T / len(references)
        x_var, y_var = xx - x * x, yy - y * y
        varies = (x_var > 1e-12 * xx) & (y_var > 1e-12 * yy)  # beyond rounding
        scale = np.sqrt(np.where(varies, x_var * y_var, 1.0))
        return np.where(varies, (xy - x * y) / scale, 0.0)

    return RowSums(columns, figure, exact=_correlation("pearsonr", predictions, references))


@dataclass(frozen=True)
class Ranks:
    """Spearman's correlation: ranks change with the rows drawn, so draws are computed one by one.

    Attributes:
        predictions: The predicted numbers, (rows,).
        references: The right numbers, (rows,).
    """

    predictions: Values
    references: Values
    additive = False

    def value(self) -> float:
        """Return the metric of all rows."""
        return _correlation("spearmanr", self.predictions, self.references)

    def resampled(self, counts: Floats) -> Floats:
        """Return the metric of resampled rows; see `RowStatistics.resampled`."""
        x, y = np.asarray(self.predictions), np.asarray(self.references)
        drawn = (np.repeat(np.arange(len(x)), draw.astype(int)) for draw in counts)
        return np.array([_correlation("spearmanr", x[rows], y[rows]) for rows in drawn])


def _correlation(name: str, predictions: Values | Floats, references: Values | Floats) -> float:
    """Return a correlation by SciPy's function of that name; 0.0 where it is undefined."""
    import scipy.stats

    if len(predictions) < 2:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scipy.stats.ConstantInputWarning)
        warnings.simplefilter("ignore", scipy.stats.NearConstantInputWarning)
        value = float(getattr(scipy.stats, name)(predictions, references).statistic)
    return 0.0 if math.isnan(value) else value


def count_entities(prediction: Sequence[str], reference: Sequence[str]) -> tuple[int, int, int]:
    """Count the entities of a row that are named, present, and both (the same span and type)."""
    from seqeval.metrics.sequence_labeling import get_entities

    named, present = ({*get_entities(list(tags))} for tags in (prediction, reference))
    return len(named), len(present), len(named & present)


def entity_f1(predictions: Values, references: Values) -> RowSums:
    """Return the statistics of the F1 over entities.

    An entity counts only if its span and its type are exact (conlleval's rule).
    """
    counts = [count_entities(p, y) for p, y in zip(predictions, references, strict=True)]

    def figure(sums: Floats) -> Floats:
        # Through precision and recall, whose rounding is that of seqeval.
        named, present, both = np.maximum(sums.T, [[1.0], [1.0], [0.0]])
        precision, recall = both / named, both / present
        total = precision + recall
        scores: Floats = 2 * precision * recall / np.where(total > 0, total, 1.0)
        return scores

    return RowSums(np.array(counts, dtype=np.float64), figure)


def score_entities(prediction: Sequence[str], reference: Sequence[str]) -> float:
    """Return the F1 over the entities of one row; 1.0 where none is present and none named."""
    named, present, both = count_entities(prediction, reference)
    return 2 * both / (named + present) if named + present else 1.0


def count_tags(prediction: Sequence[str], reference: Sequence[str]) -> tuple[int, int]:
    """Count the words of a row that have the right tag, and all of them."""
    return sum(a == b for a, b in zip(prediction, reference, strict=True)), len(reference)


def tag_accuracy(predictions: Values, references: Values) -> RowSums:
    """Return the statistics of the share of words whose tag is right, over all rows."""
    counts = [count_tags(p, y) for p, y in zip(predictions, references, strict=True)]
    columns = np.array(counts, dtype=np.float64)
    return RowSums(columns, lambda sums: sums[:, 0] / np.maximum(sums[:, 1], 1))


def score_tags(prediction: Sequence[str], reference: Sequence[str]) -> float:
    """Return the share of the words of one row whose tag is right; 1.0 where there are none."""
    right, words = count_tags(prediction, reference)
    return right / words if words else 1.0


def bleu(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> RowSums:
    """Return the statistics of corpus BLEU, 0 to 100, over all references (sacrebleu's defaults).

    BLEU is a function of the lengths of texts and references, and of n-grams matched and present.
    """
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU(effective_order=True)
    columns = []
    for text, texts in zip(predictions, references, strict=True):
        row = metric.sentence_score(text, list(texts))
        columns.append((row.sys_len, row.ref_len, *row.counts, *row.totals))

    def figure(sums: Floats) -> Floats:
        orders = (sums.shape[1] - 2) // 2
        scores = [
            BLEU.compute_bleu(draw[2 : 2 + orders], draw[2 + orders :], *draw[:2], "exp").score
            for draw in sums.astype(int).tolist()
        ]
        return np.array(scores)

    return RowSums(np.array(columns, dtype=np.float64), figure)


def score_bleu(prediction: str, reference: Sequence[str]) -> float:
    """Return sacrebleu's sentence BLEU, 0 to 100, over the n-gram orders that the row has."""
    import sacrebleu

    return float(sacrebleu.sentence_bleu(prediction, list(reference)).score)


NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")


def final_number(text: str) -> Decimal | None:
    """Return the first number after the last `####`, or the last number where no `####` stands.

    Thousands separators are dropped, and numbers compare by value: 1,000 is 1000.0.
    """
    _, marker, answer = text.rpartition("####")
    numbers = NUMBER.findall(answer)
    if not numbers:
        return None
    return Decimal((numbers[0] if marker else numbers[-1]).replace(",", ""))


def score_number(prediction: str, reference: Sequence[str]) -> float:
    """Return 1.0 if the final number of a text equals that of one of the references, else 0.0."""
    number = final_number(prediction)
    return float(number is not None and number in map(final_number, reference))


def loss_per_token(nats: Sequence[float], tokens: Sequence[int]) -> RowSums:
    """Return the statistics of the mean -log p of a scored token over all rows, in nats."""
    columns = np.stack([nats, tokens], axis=1).astype(float)
    return RowSums(columns, lambda sums: sums[:, 0] / sums[:, 1])


def perplexity(nats: Sequence[float], tokens: Sequence[int]) -> RowSums:
    """Return the statistics of exp(loss per token), which is infinite if it overflows."""
    loss = loss_per_token(nats, tokens)

    def figure(sums: Floats) -> Floats:
        with np.errstate(over="ignore"):
            return np.exp(loss.figure(sums))

    return RowSums(loss.columns, figure)


def score_likelihood(nats: float, tokens: int) -> float:
    """Return the mean log p of a scored token of a row."""
    return -nats / tokens


CLASSES: frozenset[Form] = frozenset({"classes"})
NUMBERS: frozenset[Form] = frozenset({"numbers"})
NATS: frozenset[Form] = frozenset({"nats"})
TAGS: frozenset[Form] = frozenset({"tags"})
TEXTS: frozenset[Form] = frozenset({"texts"})

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", mean(score_equality), score_equality, CLASSES | {"sets"}),
        Metric("macro_f1", macro_f1, score_equality, CLASSES | {"sets"}),
        Metric("micro_f1", micro_f1, score_equality, CLASSES | {"sets"}),
        Metric("binary_f1", binary_f1, score_equality, CLASSES),
        Metric("matthews", matthews, score_equality, CLASSES, low=-1.0),
        Metric("pearson", pearson, score_closeness, NUMBERS, low=-1.0),
        Metric("spearman", Ranks, score_closeness, NUMBERS, low=-1.0),
        Metric("mse", mean(squared_error), score_closeness, NUMBERS, False, high=math.inf),
        Metric("entity_f1", entity_f1, score_entities, TAGS),
        Metric("tag_accuracy", tag_accuracy, score_tags, TAGS),
        Metric("bleu", bleu, score_bleu, TEXTS, high=100.0),
        Metric("exact_number", mean(score_number), score_number, TEXTS),
        Metric("loss_per_token", loss_per_token, score_likelihood, NATS, False, high=math.inf),
        Metric("perplexity", perplexity, score_likelihood, NATS, False, 1.0, math.inf),
    )
}


def get_metric(name: str) -> Metric:
    """Return the metric of that name.

    Raises:
        TaskError: If there is none; the message lists all.
    """
    if name not in METRICS:
        raise TaskError(
            f"metric {name!r} is unknown; expected one of {', '.join(METRICS)}."
            f"{suggestion(name, METRICS)}"
        )
    return METRICS[name]


def score(names: Iterable[str], outcomes: Mapping[Form, Outcome]) -> dict[str, float]:
    """Return every named metric that one of the outcomes has the form for."""
    return {
        name: METRICS[name].compute(outcome.predictions, outcome.references)
        for name in names
        for form, outcome in outcomes.items()
        if form in METRICS[name].forms
    }
