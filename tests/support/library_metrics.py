"""The metrics of scikit-learn, SciPy, seqeval and sacrebleu, and cases to compare with them."""

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


ROWS = 40
RNG = np.random.default_rng(0)
TAGS = ["O", "B-A", "I-A", "B-B", "I-B"]


def classes(count: int) -> list[int]:
    return RNG.integers(count, size=ROWS).tolist()


def sets(labels: int = 3) -> list[list[int]]:
    return RNG.integers(2, size=(ROWS, labels)).tolist()


def tags() -> list[list[str]]:
    return [RNG.choice(TAGS, size=4).tolist() for _ in range(ROWS)]


def texts() -> list[str]:
    return [" ".join(RNG.choice(["a", "b", "c", "3"], size=6)) for _ in range(ROWS)]


def references() -> list[list[str]]:
    return [[text] for text in texts()]


def several_references() -> list[list[str]]:
    return [[t[: RNG.integers(1, 9)] for t in some] for some in zip(texts(), texts(), strict=True)]


CASES: list[tuple[str, Any, Any]] = [
    ("accuracy", classes(3), classes(3)),
    ("accuracy", sets(), sets()),
    ("macro_f1", classes(3), classes(3)),
    ("macro_f1", [*classes(2)[:-1], 7], classes(2)),  # a class that many draws miss
    ("macro_f1", sets(), sets()),
    ("micro_f1", classes(3), classes(3)),
    ("micro_f1", sets(), sets()),
    ("binary_f1", classes(2), classes(2)),
    ("binary_f1", [0] * ROWS, classes(2)),
    ("matthews", classes(2), classes(2)),
    ("matthews", classes(4), classes(4)),
    ("matthews", [1] * ROWS, classes(2)),
    ("pearson", RNG.normal(3, 1, ROWS).tolist(), RNG.normal(2, 1, ROWS).tolist()),
    ("pearson", [0.3] * ROWS, RNG.normal(2, 1, ROWS).tolist()),
    ("spearman", RNG.normal(3, 1, ROWS).tolist(), RNG.normal(2, 1, ROWS).tolist()),
    ("mse", RNG.normal(3, 1, ROWS).tolist(), RNG.normal(2, 1, ROWS).tolist()),
    ("entity_f1", tags(), tags()),
    ("tag_accuracy", tags(), tags()),
    ("bleu", texts(), references()),
    ("bleu", ["", *texts()[1:]], [*several_references()[1:], ["a b c"]]),
    ("exact_number", texts(), references()),
    ("loss_per_token", RNG.uniform(1, 9, ROWS).tolist(), RNG.integers(1, 9, ROWS).tolist()),
    ("perplexity", RNG.uniform(1, 9, ROWS).tolist(), RNG.integers(1, 9, ROWS).tolist()),
    ("macro_f1", classes(25), classes(25)),  # more labels than are added one by one
    ("macro_f1", sets(1), sets(1)),
    ("micro_f1", sets(1), sets(1)),
]
