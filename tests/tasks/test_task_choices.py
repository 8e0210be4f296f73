"""Answers to multiple choice: from what they count."""

import pytest

from rankwright.tasks import TaskError, task_from_files


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
