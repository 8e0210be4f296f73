"""All bad rows are found at once, and can be left out."""

import pytest

from rankwright.tasks import TaskError, task_from_files

ADVICE = "leave them out with --skip-bad-rows (skip_bad_rows in Python and YAML)."
FIX = "expected a text that is not empty. Fill the cell or remove the row."


def csv_file(path, rows):
    path.write_text("text,label\n" + "".join(f"{row}\n" for row in rows))
    return path


def classification(path, **options):
    options.setdefault("validation_share", 0.5)
    return task_from_files(path, label_column="label", **options)


def some_rows(count):
    return [f"text {number},{number % 2}" for number in range(count)]


def test_the_first_ten_are_listed_with_a_total(tmp_path):
    path = csv_file(tmp_path / "t.csv", [*some_rows(30), *(",0" for _ in range(12)), "a,b,c"])
    with pytest.raises(TaskError) as error:
        classification(path).load()
    lines = str(error.value).split("\n")
    assert lines[0] == "13 of 43 rows are bad; the first 10:"
    assert lines[1:11] == [f"  {path}:{n}: column 'text' holds ''; {FIX}" for n in range(32, 42)]
    assert lines[11:] == [f"Correct them, or {ADVICE}"]


def test_rows_that_do_not_parse_and_rows_that_are_not_meant_are_in_one_list(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_bytes(
        b'{"text": "a", "label": 1}\n{"text": \n{"text": "", "label": 0}\n\n[1]\n'
        b'{"text": "\xff", "label": 1}\n{"text": "b", "label": 0}\n{"text": "c"}\n'
    )
    with pytest.raises(TaskError) as error:
        classification(path).load()
    lines = str(error.value).split("\n")
    assert lines[0] == "5 of 7 rows are bad:"
    for line, number, problem in zip(
        lines[1:-1],
        (2, 3, 5, 6, 8),
        ("does not parse as JSON", "holds ''", "the row is [1]", "byte 11", "no column 'label'"),
        strict=True,
    ):
        assert line.startswith(f"  {path}:{number}: ")
        assert problem in line


def test_rows_of_every_file_are_in_one_list(tmp_path):
    train = csv_file(tmp_path / "t.csv", [*some_rows(4), ",1"])
    validation = csv_file(tmp_path / "v.csv", [" ,0", *some_rows(4)])
    with pytest.raises(TaskError, match="2 of 10 rows are bad:") as error:
        classification(train, validation=validation, validation_share=None).load()
    assert f"  {train}:6: " in str(error.value)
    assert f"  {validation}:2: " in str(error.value)


def test_one_bad_row_is_one_sentence(tmp_path):
    path = csv_file(tmp_path / "t.csv", [*some_rows(4), ",1"])
    with pytest.raises(TaskError) as error:
        classification(path).load()
    assert str(error.value) == (
        f"{path}:6: column 'text' holds ''; {FIX} Or {ADVICE.replace('them', 'it')}"
    )


def test_bad_rows_are_left_out_and_named(tmp_path):
    path = csv_file(tmp_path / "t.csv", [",0", *some_rows(30), *(",0" for _ in range(11))])
    splits = classification(path, skip_bad_rows=True).load()
    assert len(splits.train) + len(splits.validation) == 30
    (notice,) = splits.notices
    places = ", ".join(f"{path}:{n}" for n in (2, *range(33, 42)))
    assert notice == f"12 bad rows were left out: {places} and 2 more"


def test_a_label_that_training_rows_do_not_have_is_a_bad_row(tmp_path):
    train = csv_file(tmp_path / "t.csv", some_rows(4))
    validation = csv_file(tmp_path / "v.csv", ["a,2", *some_rows(4), "b,3"])
    options = {"validation": validation, "validation_share": None}
    with pytest.raises(TaskError, match=r"2 of 10 rows are bad:\n.*:2: column 'label' holds '2"):
        classification(train, **options).load()
    splits = classification(train, skip_bad_rows=True, **options).load()
    assert [row["text"] for row in splits.validation] == [f"text {n}" for n in range(4)]
    assert splits.notices == (f"2 bad rows were left out: {validation}:2, {validation}:7",)


def test_a_problem_of_every_row_is_reported_once(tmp_path):
    path = csv_file(tmp_path / "t.csv", some_rows(40))
    for skip in (False, True):
        with pytest.raises(TaskError) as error:
            classification(path, text_column="body", skip_bad_rows=skip).load()
        assert str(error.value).startswith(f"{path}:2: there is no column 'body'; the columns are")
        assert str(error.value).endswith(" All 40 rows have this problem.")


def test_nothing_is_trained_on_no_rows(tmp_path):
    path = csv_file(tmp_path / "t.csv", [",0", ",1", "a,b,c"])
    with pytest.raises(TaskError, match="3 of 3 rows are bad") as error:
        classification(path, skip_bad_rows=True).load()
    assert str(error.value).endswith("\nCorrect them.")  # leaving them out leaves nothing


def test_the_notices_list_skipped_rows(tmp_path, words):
    path = csv_file(tmp_path / "t.csv", [*some_rows(8), ",0"])
    task = classification(path, skip_bad_rows=True)
    assert task.prepare(words).notices == (f"1 bad row was left out: {path}:10",)


@pytest.mark.parametrize("kind", ["sequence_classification", "regression"])
def test_rows_are_handed_over(tmp_path, words, kind):
    path = csv_file(tmp_path / "t.csv", some_rows(8))
    task = classification(path, kind=kind)
    splits = task.load()
    path.unlink()
    assert task.prepare(words, splits).rows is splits
