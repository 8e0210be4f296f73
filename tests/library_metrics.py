"""The metrics as scikit-learn, SciPy, seqeval and sacrebleu compute them, with none of our code."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sacrebleu
import scipy.stats
import seqeval.metrics
import sklearn.metrics

Values = Sequence[Any]


def f1(average: str) -> Callable[[Values, Values], float]:
    def compute(predictions: Values, references: Values) -> float:
        if np.ndim(references) == 2 and np.shape(references)[1] == 1:
            # Of sets over one class scikit-learn would count its absence as a second class.
            return f1("binary")(np.ravel(predictions).tolist(), np.ravel(references).tolist())
        return float(
            sklearn.metrics.f1_score(references, predictions, average=average, zero_division=0)
        )

    return compute


def matthews(predictions: Values, references: Values) -> float:
    if len(set(predictions)) < 2 or len(set(references)) < 2:
        return 0.0
    return float(sklearn.metrics.matthews_corrcoef(references, predictions))


def correlation(function: Callable[..., Any]) -> Callable[[Values, Values], float]:
    def compute(predictions: Values, references: Values) -> float:
        if len(predictions) < 2:
            return 0.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", scipy.stats.ConstantInputWarning)
            value = float(function(predictions, references).statistic)
        return 0.0 if math.isnan(value) else value

    return compute


def tag_accuracy(predictions: Values, references: Values) -> float:
    tags, right = (np.concatenate([[], *rows]) for rows in (predictions, references))
    return float(sklearn.metrics.accuracy_score(right, tags))


def bleu(predictions: Values, references: Values) -> float:
    most = max(len(texts) for texts in references)
    # sacrebleu takes one list per reference number; None stands where a row has fewer.
    streams = [[texts[n] if n < len(texts) else None for texts in references] for n in range(most)]
    return float(sacrebleu.corpus_bleu(list(predictions), streams, force=True).score)


def exact_number(predictions: Values, references: Values) -> float:
    """Of texts that are words, of which whole numbers count."""
    last = [[[w for w in text.split() if w.isdigit()][-1:] for text in r] for r in references]
    found = [[w for w in text.split() if w.isdigit()][-1:] for text in predictions]
    return float(np.mean([bool(n) and n in texts for n, texts in zip(found, last, strict=True)]))


def loss_per_token(nats: Values, tokens: Values) -> float:
    return float(np.sum(nats) / np.sum(tokens))


LIBRARY_METRICS: dict[str, Callable[[Values, Values], float]] = {
    "accuracy": lambda p, y: float(sklearn.metrics.accuracy_score(y, p)),
    "macro_f1": f1("macro"),
    "micro_f1": f1("micro"),
    "binary_f1": f1("binary"),
    "matthews": matthews,
    "pearson": correlation(scipy.stats.pearsonr),
    "spearman": correlation(scipy.stats.spearmanr),
    "mse": lambda p, y: float(sklearn.metrics.mean_squared_error(y, p)),
    "entity_f1": lambda p, y: float(seqeval.metrics.f1_score(y, p, zero_division=0)),
    "tag_accuracy": tag_accuracy,
    "bleu": bleu,
    "exact_number": exact_number,
    "loss_per_token": loss_per_token,
    "perplexity": lambda nats, tokens: float(np.exp(loss_per_token(nats, tokens))),
}
