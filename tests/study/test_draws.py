"""Metrics of all draws at once, compared with a library's metric of each drawn set of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from library_metrics import LIBRARY_METRICS
from rankwright.study.records.examples import Examples
from rankwright.study.statistics import draws, resample
from rankwright.tasks.metrics import METRICS

ROWS = 40
RNG = np.random.default_rng(0)
TAGS = ["O", "B-A", "I-A", "B-B", "I-B"]


def classes(count: int) -> list[int]:
    return RNG.integers(count, size=ROWS).tolist()


def sets() -> list[list[int]]:
    return RNG.integers(2, size=(ROWS, 3)).tolist()


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
]


def examples(metric: str, predictions: Any, labels: Any) -> Examples:
    ids = tuple(f"test:{row}" for row in range(ROWS))
    return Examples(metric, ids, np.zeros(ROWS), tuple(predictions), tuple(labels))


def test_every_metric_has_a_case() -> None:
    assert {metric for metric, *_ in CASES} == METRICS.keys() == LIBRARY_METRICS.keys()


@pytest.mark.parametrize(("metric", "predictions", "labels"), CASES)
def test_a_metric_has_the_bits_of_its_library(metric: str, predictions: Any, labels: Any) -> None:
    value = METRICS[metric].compute(predictions, labels)
    assert value == LIBRARY_METRICS[metric](predictions, labels)
    assert examples(metric, predictions, labels).compute() == value


@pytest.mark.parametrize(("metric", "predictions", "labels"), CASES)
def test_resampling_gives_the_metric_of_each_draw(
    metric: str, predictions: Any, labels: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DRAWS", "SLOW_DRAWS"):
        monkeypatch.setattr(draws, name, 30)
    run = examples(metric, predictions, labels)
    drawn = [
        np.repeat(np.arange(ROWS), count)
        for count in np.concatenate(list(draws.draw_rows(ROWS, 30, 0))).astype(int)
    ]
    one_by_one = [
        LIBRARY_METRICS[metric]([predictions[row] for row in rows], [labels[row] for row in rows])
        for rows in drawn
    ]
    np.testing.assert_allclose(resample(run), one_by_one, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose([run.compute(rows) for rows in drawn], one_by_one, rtol=1e-12)


def test_draws_do_not_depend_on_how_many_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(draws.draw_rows(ROWS, 50, 3)))
    monkeypatch.setattr(draws, "_CHUNK_NUMBERS", 7 * ROWS)
    parts = list(draws.draw_rows(ROWS, 50, 3))
    assert len(parts) == 8
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert (whole.sum(axis=1) == ROWS).all()


def test_runs_of_the_same_outcome_have_the_same_metric_on_every_draw() -> None:
    metric, predictions, labels = CASES[0]
    run, twin = examples(metric, predictions, labels), examples(metric, predictions, labels)
    assert not (resample(run) - resample(twin)).any()
