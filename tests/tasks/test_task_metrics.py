"""Metrics on small examples computed by hand, and compared with those of well-kept libraries."""

import math
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from library_metrics import CASES, LIBRARY_METRICS
from rankwright.tasks.errors import TaskError
from rankwright.tasks.metrics import METRICS, Outcome, final_number, get_metric, score

# name, predictions, references, value
GOLDEN = [
    ("accuracy", [0, 1, 1, 2], [0, 1, 2, 2], 3 / 4),
    ("accuracy", [[1, 0], [1, 1]], [[1, 0], [1, 0]], 1 / 2),
    # F1 by class: 1, 2/3 (precision 1/2, recall 1), 2/3 (precision 1, recall 1/2)
    ("macro_f1", [0, 1, 1, 2], [0, 1, 2, 2], (1 + 2 / 3 + 2 / 3) / 3),
    ("micro_f1", [0, 1, 1, 2], [0, 1, 2, 2], 3 / 4),
    # three decisions right, one too many, none missed: 6 / (6 + 1)
    ("micro_f1", [[1, 1], [1, 1]], [[1, 0], [1, 1]], 6 / 7),
    ("macro_f1", [[0, 1], [0, 1]], [[0, 1], [0, 1]], 1 / 2),  # nobody names class 0
    # sets over one class: one right, one missed, one too many, one rightly empty
    ("micro_f1", [[1], [0], [1], [0]], [[1], [1], [0], [0]], 1 / 2),
    ("macro_f1", [[1], [0], [1], [0]], [[1], [1], [0], [0]], 1 / 2),
    ("binary_f1", [1, 1, 0, 0], [1, 0, 1, 0], 1 / 2),
    # tp 2, tn 1, fp 1, fn 0: (2*1 - 1*0) / sqrt(3 * 2 * 2 * 1)
    ("matthews", [1, 1, 1, 0], [1, 1, 0, 0], 2 / math.sqrt(12)),
    ("matthews", [1, 1, 1], [1, 0, 1], 0.0),
    ("matthews", [1, 1, 1], [1, 1, 1], 0.0),
    ("pearson", [1.0, 2.0, 3.0], [2.0, 4.0, 6.0], 1.0),
    ("pearson", [1.0, 2.0, 3.0, 4.0], [1.0, 3.0, 2.0, 4.0], 0.8),
    ("spearman", [1.0, 2.0, 9.0], [1.0, 2.0, 3.0], 1.0),
    ("pearson", [2.0, 2.0, 2.0], [1.0, 2.0, 3.0], 0.0),
    ("spearman", [2.0, 2.0, 2.0], [1.0, 2.0, 3.0], 0.0),
    ("pearson", [1.0, 1.0 + 1e-16, 1.0], [1.0, 2.0, 3.0], 0.0),
    ("pearson", [float("nan"), 1.0, 2.0], [1.0, 2.0, 3.0], 0.0),
    ("pearson", [1.0], [1.0], 0.0),
    ("mse", [1.0, 2.0], [1.0, 4.0], 2.0),
    # one of two entities found exactly; the other has a wrong end: precision 1/2, recall 1/2
    (
        "entity_f1",
        [["B-x", "I-x", "O", "B-y", "O"]],
        [["B-x", "I-x", "O", "B-y", "I-y"]],
        1 / 2,
    ),
    ("entity_f1", [["O", "O"]], [["O", "O"]], 0.0),
    ("tag_accuracy", [["NN", "VB", "X"], ["NN"]], [["NN", "VB", "NN"], ["NN"]], 3 / 4),
    ("tag_accuracy", [["I-x"]], [["B-x"]], 0.0),
    ("tag_accuracy", [[]], [[]], 0.0),
    ("bleu", ["a b c d e"], [["x y", "a b c d e"]], 100.0),
    ("bleu", ["a b c d", "e f g h"], [["a b c d"], ["x", "e f g h"]], 100.0),
    ("bleu", ["", ""], [["a b"], ["c"]], 0.0),
    # 4-gram precisions 4/5, 3/4, 2/3, 1/2; no brevity penalty
    ("bleu", ["a b c d x"], [["a b c d e"]], 100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25),
    ("exact_number", ["#### 18", "so 1,000.0", "none"], [["#### 18"], ["#### 1000"], ["1"]], 2 / 3),
    ("loss_per_token", [2.0, 4.0], [1, 2], 2.0),
    ("perplexity", [2.0, 4.0], [1, 2], math.exp(2.0)),
    ("perplexity", [1e6], [1], math.inf),
]


@pytest.mark.parametrize(("name", "predictions", "references", "value"), GOLDEN)
def test_golden(name, predictions, references, value):
    assert METRICS[name].compute(predictions, references) == pytest.approx(value)


@pytest.mark.parametrize(("name", "predictions", "references"), CASES)
def test_a_metric_has_the_bits_of_its_library(name, predictions, references):
    value = METRICS[name].compute(predictions, references)
    assert value == LIBRARY_METRICS[name](predictions, references)


def test_every_metric_has_a_case_and_a_library():
    assert {name for name, *_ in CASES} == METRICS.keys() == LIBRARY_METRICS.keys()


def test_every_metric_has_a_golden_example():
    assert {name for name, *_ in GOLDEN} == set(METRICS)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("He has 3 and 4.\n#### 1,234", 1234),
        ("#### 5 of 7", 5),
        ("3 apples, then -2.50", Decimal("-2.5")),
        ("$.5", Decimal("0.5")),
        ("12.", 12),
        ("1, 2", 2),
        ("none ####", None),
        ("no digits", None),
    ],
)
def test_final_number(text, number):
    assert final_number(text) == number


@given(st.integers(-(10**12), 10**12))
def test_final_number_reads_any_integer_with_separators(number):
    assert final_number(f"so 7 it is #### {number:,}") == number


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=20))
def test_classification_metrics_never_warn_and_stay_in_range(pairs):
    predictions, references = (list(side) for side in zip(*pairs, strict=True))
    outcome = {"classes": Outcome(predictions, references)}
    values = score(["accuracy", "macro_f1", "micro_f1", "matthews"], outcome)
    assert values["micro_f1"] == pytest.approx(values["accuracy"])
    assert all(-1 <= value <= 1 + 1e-9 for value in values.values())


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=1, max_size=20))
def test_correlations_never_warn_and_stay_in_range(pairs):
    predictions, references = zip(*pairs, strict=True)
    outcome = {"numbers": Outcome(predictions, references)}
    values = score(["pearson", "spearman"], outcome).values()
    assert all(-1 - 1e-9 <= value <= 1 + 1e-9 for value in values)


def test_an_unknown_metric_lists_the_known_ones():
    with pytest.raises(TaskError, match=r"'acuracy' is unknown; expected one of accuracy, .*Did"):
        get_metric("acuracy")


def test_only_losses_are_better_when_smaller():
    smaller = {name for name, metric in METRICS.items() if not metric.greater_is_better}
    assert smaller == {"mse", "loss_per_token", "perplexity"}
