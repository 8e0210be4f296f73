"""Rows to report on where not all are wanted."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankwright.tasks import StdlibDocs, task_from_files
from rankwright.tasks.drawing import draw_rows


@given(
    classes=st.lists(st.sampled_from("abcd"), min_size=1, max_size=60),
    count=st.integers(1, 70),
    seed=st.integers(0, 5),
)
def test_every_class_keeps_its_share(classes, count, seed):
    rows = draw_rows(classes, count, seed)
    assert rows == sorted(set(rows))
    assert rows == draw_rows(classes, count, seed)
    assert len(rows) == min(count, len(classes))
    found = Counter(classes[row] for row in rows)
    for name, there in Counter(classes).items():
        assert abs(found[name] - len(rows) * there / len(classes)) < 1


def test_every_row_has_the_same_chance():
    classes = ["rare"] * 3 + ["often"] * 37
    times = Counter(row for seed in range(2000) for row in draw_rows(classes, 10, seed))
    assert all(abs(times[row] / 2000 - 10 / 40) < 0.05 for row in range(40))


def test_the_seed_chooses_and_the_first_rows_are_not_preferred():
    assert draw_rows([0] * 100, 10, seed=0) != draw_rows([0] * 100, 10, seed=1)
    assert draw_rows([0] * 100, 10, seed=0) != list(range(10))


def test_rows_sorted_by_class_are_drawn_from_all_classes():
    """As in stdlib-docs, whose first 60 validation rows are of two packages."""
    packages = [row["package"] for row in StdlibDocs().load(("text",)).validation]
    assert len(set(packages[:60])) == 2
    assert len({packages[row] for row in draw_rows(packages, 60, seed=0)}) >= 14


@pytest.fixture
def sorted_rows(write):
    """40 rows of each of two classes, one after the other."""
    return write([{"text": word, "label": word, "labels": [word]} for word in "a" * 40 + "b" * 40])


@pytest.mark.parametrize(
    ("options", "by_class"),
    [
        ({"label_column": "label"}, " by class"),
        ({"kind": "multi_label"}, " by class"),
        ({"kind": "causal_lm"}, ""),
    ],
)
def test_the_notice_states_the_drawn_rows(sorted_rows, words, options, by_class):
    prepared = task_from_files(sorted_rows, validation=sorted_rows, **options).prepare(words)
    assert prepared.limit_notice("validation", 10) == (
        f"10 of the 80 validation rows are reported on, drawn{by_class} with seed 0"
    )
    assert prepared.limit_notice("validation", 80) is None
    assert prepared.limit_notice("validation", None) is None
    assert prepared.limit_notice("validation", 1000) == (
        "all 80 validation rows are reported on; 1,000 were asked for"
    )
    texts = [prepared.rows.validation[row]["text"] for row in prepared.draw_rows("validation", 10)]
    if by_class:
        assert Counter(texts) == {"a": 5, "b": 5}
    assert prepared.draw_rows("validation", None) == list(range(80))


def test_the_seed_of_the_data_chooses_the_rows(sorted_rows, words):
    first, second = (
        task_from_files(
            sorted_rows, validation=sorted_rows, label_column="label", seed=seed
        ).prepare(words)
        for seed in (0, 1)
    )
    assert first.draw_rows("validation", 10) != second.draw_rows("validation", 10)
    assert "with seed 1" in second.limit_notice("validation", 10)


def test_predictions_are_of_the_drawn_rows(sorted_rows, words, llama):
    prepared = task_from_files(
        sorted_rows, validation=sorted_rows, kind="causal_lm"
    ).prepare(words)  # fmt: skip
    whole = prepared.predict(llama)["nats"].predictions
    some = prepared.predict(llama, limit=10)["nats"].predictions
    rows = prepared.draw_rows("validation", 10)
    assert some == pytest.approx([whole[row] for row in rows], rel=1e-5)


def test_generated_texts_and_choices_are_of_the_same_rows(write, words, llama):
    rows = [
        {"question": q, "choices": ["a", "b"], "label": n % 2, "p": q, "c": q}
        for n, q in enumerate("abcdefgh")
    ]
    path = write(rows)
    choice = task_from_files(path, validation=path, choices_column="choices").prepare(words)
    drawn_rows = choice.draw_rows("validation", 3)
    assert choice.predict(llama, limit=3)["classes"].references == [r % 2 for r in drawn_rows]
    texts = task_from_files(
        path, validation=path, prompt_column="p", completion_column="c", metrics="bleu",
        max_new_tokens=2,
    ).prepare(words)  # fmt: skip
    references = texts.predict(llama, limit=3)["texts"].references
    assert references == [[rows[row]["c"]] for row in drawn_rows]
