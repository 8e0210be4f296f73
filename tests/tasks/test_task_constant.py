"""Answers that depend on no row: what they get, and which models give them."""

import json

import pytest

from rankwright.tasks import Outcome, task_from_files
from rankwright.tasks.constant import Constant, are_alike, score_constant


def prepared(tokenizer, folder, train, validation, **options):
    files = {}
    for name, rows in (("train", train), ("validation", validation)):
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        files[name] = str(file)
    return task_from_files(**files, **options).prepare(tokenizer)


def texts(*labels):
    return [{"text": f"a b {word}", "label": label} for word, label in zip("cdefghij", labels)]  # noqa: B905


CLASSES = {"text_column": "text", "label_column": "label"}


def test_the_commonest_class_of_the_training_rows(words, tmp_path):
    """Not of the reported rows, in which it may be rare."""
    task = prepared(
        words, tmp_path, texts("no", "no", "yes"), texts("yes", "yes", "no", "yes"), **CLASSES
    )
    outcome = Outcome([0, 0, 0, 0], [1, 1, 0, 1])
    found = score_constant(task, {"classes": outcome})
    assert found == Constant("no", {"accuracy": 0.25, "macro_f1": pytest.approx(0.2)})


def test_of_classes_as_common_the_first(words, tmp_path):
    task = prepared(words, tmp_path, texts("b", "a", "b", "a"), texts("a", "b"), **CLASSES)
    assert score_constant(task, {"classes": Outcome([0, 0], [0, 1])}).answer == "a"


def test_the_mean_of_the_training_rows(words, tmp_path):
    task = prepared(
        words, tmp_path, texts(1.0, 2.0, 6.0), texts(2.0, 4.0),
        kind="regression", metrics=["mse", "pearson"], **CLASSES,
    )  # fmt: skip
    found = score_constant(task, {"numbers": Outcome([0.0, 0.0], [2.0, 4.0])})
    assert found == Constant("the mean, 3", {"mse": 1.0, "pearson": 0.0})


def test_the_commonest_set(words, tmp_path):
    task = prepared(
        words, tmp_path, texts(["x", "y"], ["x", "y"], ["x"], []), texts(["x", "y"], []),
        kind="multi_label", **CLASSES,
    )  # fmt: skip
    found = score_constant(task, {"sets": Outcome([[0, 0], [0, 0]], [[1, 1], [0, 0]])})
    assert found.answer == "x and y"
    assert found.metrics["micro_f1"] == pytest.approx(2 / 3)


def test_the_commonest_tag(words, tmp_path):
    rows = [{"tokens": ["a", "b", "c"], "tags": ["O", "B-X", "O"]}]
    task = prepared(words, tmp_path, rows, rows, tokens_column="tokens", tags_column="tags")
    references = [["O", "B-X", "O"], ["B-X"]]
    found = score_constant(task, {"tags": Outcome([["O"] * 3, ["O"]], references)})
    assert found == Constant("O", {"entity_f1": 0.0})


def test_the_commonest_place_of_the_right_choice(words, tmp_path):
    rows = [
        {"question": "a b", "choices": ["c", "d"], "label": label} for label in (1, 1, 0)
    ]  # fmt: skip
    task = prepared(
        words, tmp_path, rows, rows, question_column="question", choices_column="choices",
        label_column="label",
    )  # fmt: skip
    found = score_constant(task, {"classes": Outcome([0, 0, 0], [1, 1, 0])})
    assert found.answer == "choice 2"
    assert found.metrics["accuracy"] == pytest.approx(2 / 3)


def test_text_has_no_such_answer(words, tmp_path):
    rows = [{"prompt": "a b", "completion": "c"}]
    task = prepared(
        words, tmp_path, rows, rows, prompt_column="prompt", completion_column="completion"
    )
    assert score_constant(task, {"nats": Outcome([1.0], [1])}) is None


@pytest.mark.parametrize(
    ("predictions", "references", "same"),
    [
        ([1, 1, 1], [0, 1, 1], True),
        ([1, 0, 1], [0, 1, 1], False),
        ([1, 1, 1], [1, 1, 1], False),  # and rightly so
        ([1], [0], False),  # of one row nothing can be said
        ([[0, 1], [0, 1]], [[0, 1], [1, 1]], True),
        ([[0, 1], [1, 1]], [[0, 1], [1, 1]], False),
        ([["O", "O"], ["O"]], [["B-X", "O"], ["O"]], True),
        ([["B-X", "O"], ["O"]], [["B-X", "O"], ["O"]], False),
        (["so", "so"], [["a"], ["b", "c"]], True),
        (["so", "it"], [["a"], ["b", "c"]], False),
        ([2.61, 2.6, 2.62], [1.0, 3.0, 5.0], True),
        ([1.9, 3.1, 3.9], [1.0, 3.0, 5.0], False),
        ([0.2, 0.2], [3.0, 3.0], False),
        ([0.1, 0.2, 0.3], [3, 4, 4], False),  # likelihoods beside numbers of tokens
    ],
)
def test_one_answer_for_every_row(predictions, references, same):
    assert are_alike(predictions, references) is same
