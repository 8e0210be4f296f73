"""Metrics of all draws at once, compared with a library's metric of each drawn set of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from library_metrics import CASES, LIBRARY_METRICS, ROWS
from rankwright.study.records.examples import Examples
from rankwright.study.statistics import draws, resample


def examples(metric: str, predictions: Any, labels: Any) -> Examples:
    ids = tuple(f"test:{row}" for row in range(ROWS))
    return Examples(metric, ids, np.zeros(ROWS), tuple(predictions), tuple(labels))


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
