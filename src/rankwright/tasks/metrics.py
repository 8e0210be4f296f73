"""Metrics by name, each computed by a well-kept library.

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

The libraries are imported where a metric is computed: together they take seconds, and a task needs
only the table to be made.

A metric that is mathematically undefined (a correlation with a constant, an F1 of nothing) is
0.0, without a warning.

Beside the figure for a whole split, a metric has a score for every row, larger is better.
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

Form = Literal["classes", "sets", "numbers", "tags", "texts", "nats"]


@dataclass(frozen=True)
class Outcome:
    """What a model said about every row of a split, beside what is right.

    Attributes:
        predictions: One entry per row, in the order of the rows.
        references: One entry per row, in the same order.
    """

    predictions: Sequence[Any]
    references: Sequence[Any]


@dataclass(frozen=True)
class Metric:
    """A named figure of merit.

    Attributes:
        name: The key in results.
        compute: The figure from predictions and references, in this order.
        each: The score of one row from its prediction and its reference, larger is better.
        forms: The forms of predictions it understands.
        greater_is_better: Whether to look for its maximum.
        low: The smallest value that it can have.
        high: The largest.
    """

    name: str
    compute: Callable[[Sequence[Any], Sequence[Any]], float]
    each: Callable[[Any, Any], float]
    forms: frozenset[Form]
    greater_is_better: bool = True
    low: float = 0.0
    high: float = 1.0


def accuracy(predictions: Sequence[Any], references: Sequence[Any]) -> float:
    """Share of rows that are right; a row of a set is right when every label in it is."""
    import sklearn.metrics

    return float(sklearn.metrics.accuracy_score(references, predictions))


def macro_f1(predictions: Sequence[Any], references: Sequence[Any]) -> float:
    """Mean F1 of the classes; in sets, one that nobody named counts as 0."""
    return _f1(predictions, references, "macro")


def micro_f1(predictions: Sequence[Any], references: Sequence[Any]) -> float:
    """F1 of all decisions pooled; equals accuracy where a row has exactly one class."""
    return _f1(predictions, references, "micro")


def binary_f1(predictions: Sequence[Any], references: Sequence[Any]) -> float:
    """F1 of class 1 in a task of two classes (MRPC, QQP)."""
    return _f1(predictions, references, "binary")


def _f1(predictions: Sequence[Any], references: Sequence[Any], average: str) -> float:
    import sklearn.metrics

    if np.ndim(references) == 2 and np.shape(references)[1] == 1:
        # Of sets over one class scikit-learn would count its absence as a second class.
        return _f1(np.ravel(predictions).tolist(), np.ravel(references).tolist(), "binary")
    score = sklearn.metrics.f1_score(references, predictions, average=average, zero_division=0)
    return float(score)


def matthews(predictions: Sequence[Any], references: Sequence[Any]) -> float:
    """Matthews correlation, -1 to 1."""
    import sklearn.metrics

    if len(set(predictions)) < 2 or len(set(references)) < 2:
        return 0.0
    return float(sklearn.metrics.matthews_corrcoef(references, predictions))


def pearson(predictions: Sequence[Any], references: Sequence[Any]) -> float:
    """Pearson's linear correlation, -1 to 1."""
    return _correlation("pearsonr", predictions, references)


def spearman(predictions: Sequence[Any], references: Sequence[Any]) -> float:
    """Spearman's rank correlation, -1 to 1."""
    return _correlation("spearmanr", predictions, references)


def _correlation(name: str, predictions: Sequence[Any], references: Sequence[Any]) -> float:
    import scipy.stats

    if len(predictions) < 2:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scipy.stats.ConstantInputWarning)
        warnings.simplefilter("ignore", scipy.stats.NearConstantInputWarning)
        value = float(getattr(scipy.stats, name)(predictions, references).statistic)
    return 0.0 if math.isnan(value) else value


def mean_squared_error(predictions: Sequence[Any], references: Sequence[Any]) -> float:
    """Mean squared difference, in squared units of the target."""
    import sklearn.metrics

    return float(sklearn.metrics.mean_squared_error(references, predictions))


def entity_f1(predictions: Sequence[Any], references: Sequence[Any]) -> float:
    """F1 over entities; one counts only if its span and its type are exact (conlleval's rule)."""
    import seqeval.metrics

    return float(seqeval.metrics.f1_score(references, predictions, zero_division=0))


def tag_accuracy(predictions: Sequence[Any], references: Sequence[Any]) -> float:
    """Share of words whose tag is right, over all rows."""
    pairs = [
        (tag, right)
        for row, reference in zip(predictions, references, strict=True)
        for tag, right in zip(row, reference, strict=True)
    ]
    return sum(tag == right for tag, right in pairs) / len(pairs) if pairs else 0.0


def bleu(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Corpus BLEU over all references of a row, 0 to 100 (sacrebleu's default settings)."""
    import sacrebleu

    most = max((len(texts) for texts in references), default=0)
    # sacrebleu wants one list per reference number; None stands where a row has fewer.
    streams = [[texts[n] if n < len(texts) else None for texts in references] for n in range(most)]
    return float(sacrebleu.corpus_bleu(list(predictions), streams, force=True).score)


def exact_number(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Share of texts whose final number equals that of one of the references."""
    hits = [
        (found := final_number(text)) is not None and found in map(final_number, texts)
        for text, texts in zip(predictions, references, strict=True)
    ]
    return float(np.mean(hits))


NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")


def final_number(text: str) -> Decimal | None:
    """Returns the first number after the last `####`, or the last number where no `####` stands.

    Thousands separators are dropped, and numbers compare by value: 1,000 is 1000.0.
    """
    _, marker, answer = text.rpartition("####")
    numbers = NUMBER.findall(answer)
    if not numbers:
        return None
    return Decimal((numbers[0] if marker else numbers[-1]).replace(",", ""))


def loss_per_token(nats: Sequence[float], tokens: Sequence[int]) -> float:
    """Mean -log p of a scored token over the whole split, in nats."""
    return float(np.sum(nats) / np.sum(tokens))


def perplexity(nats: Sequence[float], tokens: Sequence[int]) -> float:
    """Returns exp of the loss per token; infinite where that overflows."""
    with np.errstate(over="ignore"):
        return float(np.exp(np.float64(loss_per_token(nats, tokens))))


def right(prediction: Any, reference: Any) -> float:
    """1.0 for a row that is right, else 0.0."""
    return float(prediction == reference)


def closeness(prediction: float, reference: float) -> float:
    """Minus the squared error of a row."""
    return -((prediction - reference) ** 2)


def row_entity_f1(prediction: Sequence[str], reference: Sequence[str]) -> float:
    """F1 over the entities of one row; 1.0 where there is none and none was named."""
    import seqeval.metrics

    named = {*seqeval.metrics.sequence_labeling.get_entities(list(prediction))}
    there = {*seqeval.metrics.sequence_labeling.get_entities(list(reference))}
    total = len(named) + len(there)
    return 2 * len(named & there) / total if total else 1.0


def row_tag_accuracy(prediction: Sequence[str], reference: Sequence[str]) -> float:
    """Share of the words of one row whose tag is right; 1.0 where there is none."""
    return tag_accuracy([prediction], [reference]) if len(reference) else 1.0


def row_bleu(prediction: str, reference: Sequence[str]) -> float:
    """BLEU of one row, 0 to 100, over the n-gram orders that it has (sacrebleu's sentence BLEU)."""
    import sacrebleu

    return float(sacrebleu.sentence_bleu(prediction, list(reference)).score)


def right_number(prediction: str, reference: Sequence[str]) -> float:
    """1.0 if the final number of a row is right, else 0.0."""
    return exact_number([prediction], [reference])


def mean_log_likelihood(nats: float, tokens: int) -> float:
    """Mean log p of a scored token of a row."""
    return -nats / tokens


CLASSES: frozenset[Form] = frozenset({"classes"})
NUMBERS: frozenset[Form] = frozenset({"numbers"})
NATS: frozenset[Form] = frozenset({"nats"})
TEXTS: frozenset[Form] = frozenset({"texts"})

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", accuracy, right, CLASSES | {"sets"}),
        Metric("macro_f1", macro_f1, right, CLASSES | {"sets"}),
        Metric("micro_f1", micro_f1, right, CLASSES | {"sets"}),
        Metric("binary_f1", binary_f1, right, CLASSES),
        Metric("matthews", matthews, right, CLASSES, low=-1.0),
        Metric("pearson", pearson, closeness, NUMBERS, low=-1.0),
        Metric("spearman", spearman, closeness, NUMBERS, low=-1.0),
        Metric(
            "mse", mean_squared_error, closeness, NUMBERS, greater_is_better=False, high=math.inf
        ),
        Metric("entity_f1", entity_f1, row_entity_f1, frozenset({"tags"})),
        Metric("tag_accuracy", tag_accuracy, row_tag_accuracy, frozenset({"tags"})),
        Metric("bleu", bleu, row_bleu, TEXTS, high=100.0),
        Metric("exact_number", exact_number, right_number, TEXTS),
        Metric(
            "loss_per_token",
            loss_per_token,
            mean_log_likelihood,
            NATS,
            greater_is_better=False,
            high=math.inf,
        ),
        Metric(
            "perplexity",
            perplexity,
            mean_log_likelihood,
            NATS,
            greater_is_better=False,
            low=1.0,
            high=math.inf,
        ),
    )
}


def get_metric(name: str) -> Metric:
    """Returns the metric of that name.

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
    """Returns every named metric that one of the outcomes has the form for."""
    return {
        name: METRICS[name].compute(outcome.predictions, outcome.references)
        for name in names
        for form, outcome in outcomes.items()
        if form in METRICS[name].forms
    }
