"""Choices and answers: the forms they come in, and from what answers count."""

import json

import pytest

from rankwright.tasks import Row, TaskError, task_from_files
from rankwright.tasks.choices import answer as answer_of
from rankwright.tasks.choices import choices as choices_of
from rankwright.tasks.errors import Where


def questions(answers, choices="abcd"):
    return [
        {"question": f"which {n}", "choices": list(choices), "label": answer}
        for n, answer in enumerate(answers)
    ]


def task(path, **options):
    return task_from_files(path, validation=path, choices_column="choices", **options)


@pytest.mark.parametrize("answers", [[1, 2, 3, 4], ["1", "4", "4"], [4], [1, 2] * 20 + [4]])
@pytest.mark.parametrize("skip", [False, True])
def test_answers_that_count_from_1_are_refused(write, answers, skip):
    """All of them, not only those that are no index: without these the others would be wrong."""
    path = write(questions(answers))
    message = (
        rf"jsonl:{answers.index(answers[-1]) + 1}: column 'label' holds '?4'?; expected an index "
        r"from 0 to 3, and no row holds 0\. The answers seem to count from 1: subtract 1 from all"
    )
    with pytest.raises(TaskError, match=message):
        task(path, skip_bad_rows=skip).load()


def test_every_file_counts_by_itself(write):
    train, validation = write(questions([0, 1, 2, 3])), write(questions([1, 2, 4]), "v.jsonl")
    with pytest.raises(TaskError, match=r"v\.jsonl:3: column 'label' holds 4; expected an index"):
        task_from_files(train, validation=validation, choices_column="choices").load()


def test_a_part_that_is_held_out_counts_with_its_file(write):
    """A share without a 0 in it is no file that counts from 1."""
    path = write(questions([0] * 4 + [3] * 40 + [4]))
    held_out = task_from_files(path, choices_column="choices", validation_share=0.3)
    with pytest.raises(TaskError, match=r":45: column 'label' holds 4; expected the index of a ch"):
        held_out.load()


def test_one_answer_too_large_beside_0_is_a_bad_row(write):
    path = write(questions([0, 1, 4, 2]))
    with pytest.raises(
        TaskError, match=r":3: column 'label' holds 4; expected the index of a choi"
    ):
        task(path).load()
    assert len(task(path, skip_bad_rows=True).load().train) == 3


@pytest.mark.parametrize(("answers", "doubted"), [([1, 2] * 5, 1), ([1, 2] * 4, 0), ([0] * 9, 0)])
def test_no_answer_that_is_the_first_choice_is_doubted_in_many_rows(write, answers, doubted):
    """Validation is the same file here."""
    path = write(questions(answers))
    one_file = task_from_files(path, choices_column="choices", validation_share=0.4)
    notices = one_file.load().notices
    assert len(notices) == doubted
    assert all(f"no answer in {path} is 0, the first choice" in notice for notice in notices)


def row_of(choices, answer):
    return Row(Where("f", 1), {"choices": choices, "answer": answer})


def read(choices, answer):
    row = row_of(choices, answer)
    among = choices_of(row, "choices")
    return among.texts, *answer_of(row, "answer", among)


TEXTS = ["sand", "rain", "salt"]


@pytest.mark.parametrize(
    "choices",
    [
        {"text": TEXTS, "label": ["A", "B", "C"]},
        {"label": ["A", "B", "C"], "text": TEXTS},
        [{"text": text, "label": label} for text, label in zip(TEXTS, "ABC", strict=True)],
        '{"text": ["sand", "rain", "salt"], "label": ["A", "B", "C"]}',
    ],
)
def test_choices_with_labels(choices):
    assert read(choices, "B") == (TEXTS, 1, "label")
    assert read(choices, "rain") == (TEXTS, 1, "text")
    assert read(choices, 1) == (TEXTS, 1, "index")


def test_labels_may_be_numbers():
    choices = {"text": TEXTS, "label": ["1", "2", "3"]}
    assert read(choices, "3") == (TEXTS, 2, "label")
    assert read(choices, 1) == (TEXTS, 0, "label")
    with pytest.raises(TaskError, match="expected one of the labels 1, 2, 3, or the text of a ch"):
        read(choices, "0")


@pytest.mark.parametrize(
    ("answer", "index", "form"),
    [
        (0, 0, "index"),
        ("2", 2, "index"),
        ("C", 2, "letter"),
        ("salt ", 2, "text"),
        ("A", 0, "letter"),
    ],
)
def test_answers_to_choices_without_labels(answer, index, form):
    assert read(TEXTS, answer) == (TEXTS, index, form)
    assert read([{"text": text} for text in TEXTS], answer) == (TEXTS, index, form)


def test_an_answer_that_may_be_two_choices_is_refused():
    with pytest.raises(TaskError, match=r"^f:1: .* holds '1', which may be choice 2 by its index "
                       "or choice 1 by its text"):  # fmt: skip
        read(["1", "2"], "1")
    with pytest.raises(TaskError, match="choice 1 by its letter or choice 2 by its text"):
        read(["B", "A"], "A")
    with pytest.raises(TaskError, match="choice 1 by its text or choice 2 by its text"):
        read(["same", "same"], "same")
    assert read(["A", "B"], "B")[1] == 1  # the same choice either way
    assert read(["1", "2"], 1)[1:] == (1, "index")


@pytest.mark.parametrize("answer", ["D", "rai", "b", "", None, 3, 1.0, True, ["rain"]])
def test_an_answer_that_names_no_choice_is_refused(answer):
    for choices in (TEXTS, {"text": TEXTS, "label": ["A", "B", "C"]}):
        with pytest.raises(TaskError, match=r"^f:1: column 'answer' holds "):
            read(choices, answer)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"text": TEXTS, "label": ["A", "B"]}, "expected 3 different labels"),
        ({"text": TEXTS, "label": ["A", "B", "B"]}, "expected 3 different labels"),
        ({"texts": TEXTS}, "expected a list of texts"),
        ({"text": ["a", ""]}, "expected a list of texts that are not empty"),
        ({"text": ["a"]}, "expected at least two choices"),
        ("sand, rain", "expected a list"),
    ],
)
def test_invalid_choices_are_refused(choices, message):
    with pytest.raises(TaskError, match=f"^f:1: column 'choices' holds .*{message}"):
        choices_of(row_of(choices, 0), "choices")


def test_the_summary_states_the_form_of_answers(tmp_path):
    path = tmp_path / "t.jsonl"
    rows = [
        {"question": f"q {n}", "choices": {"text": TEXTS, "label": ["1", "2", "3"]}, "answerKey": k}
        for n, k in enumerate("3232323232")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = task_from_files(path, validation=path)
    splits = task.load()  # no 1 among them, and no doubt whether they count from 0
    assert not any("count from 1" in notice for notice in splits.notices)
    assert task.summary(splits) == ("answers in 'answerKey' are read as the label of a choice",)
    assert [task.answer(row) for row in splits.train[:2]] == [2, 1]
