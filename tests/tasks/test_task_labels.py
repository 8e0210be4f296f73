"""Which classes there are is told, and what is hardly one is doubted or refused."""

from dataclasses import replace

import pytest

from rankwright.tasks import SetAside, TaskError, cells, task_from_files
from rankwright.tasks.errors import Where
from rankwright.tasks.rows import Row

MISSING = ["", " ", "NaN", "nan", "None", "null", "NULL", "NA", "N/A", "n/a", "<NA>", " NaN "]


def some(labels, column="label"):
    """A row for each label."""
    return [{"text": f"text {n}", column: label} for n, label in enumerate(labels)]


def loaded(path, **options):
    return task_from_files(path, validation=path, **{"label_column": "label", **options}).load()


def told(path, **options):
    """What is said before training: the summary, then the notices."""
    own = {} if "tags_column" in options else {"label_column": "label"}
    task = task_from_files(path, validation=path, **own, **options)
    splits = task.load()
    return (*task.summary(splits), *splits.notices)


def test_the_summary_lists_labels_by_count(write):
    path = write(some("a" * 3 + "b" * 1234 + "c" * 2))
    assert told(path) == ("labels of the 1,239 training rows: b 1,234, a 3, c 2",)


def test_many_labels_are_cut(write):
    path = write(some([f"{n} apples" for n in range(20)] * 2))
    assert told(path)[0].endswith(" apples 2 and 8 more")


def test_a_typo_is_doubted_and_its_row_named(write):
    path = write(some(["Positive"] * 30 + ["Negative"] * 29 + ["Postive"]))
    counts, doubt = told(path)
    assert counts == "labels of the 60 training rows: Positive 30, Negative 29, Postive 1"
    assert doubt.startswith(
        f"labels that may be misspelt: 'Postive' (1, the first at {path}:60), close to 'Positive'"
    )
    with pytest.raises(TaskError, match="holds 'Postive'; expected one of the 2 labels"):
        loaded(path, label_names=["Negative", "Positive"])
    assert told(path, label_names=["Negative", "Positive", "Postive"]) == (counts,)


def test_of_sets_every_label_is_counted(write):
    path = write(some([["sport", "news"], ["sport"], [], ["sports"], ["news"]]))
    counts, doubt = told(path, kind="multi_label")
    assert counts == "labels of the 5 training rows: news 2, sport 2, sports 1"
    assert f"'sports' (1, the first at {path}:4), close to 'sport' (2)" in doubt


def test_of_tags_words_are_counted_and_types_compared(write):
    words = ["a"] * 7
    first = ["B-PERSON", "I-PERSON", "O", "B-PERSON", "O", "B-PLACE", "I-PLACE"]
    path = write([{"tokens": words, "tags": first}, {"tokens": ["a"], "tags": ["B-PERSN"]}])
    counts, doubt = told(path, tags_column="tags")
    assert counts.startswith("tags of the 2 training rows: B-PERSON 2, O 2, ")
    assert f"'PERSN' (1, the first at {path}:2), close to 'PERSON' (3)" in doubt
    assert "PLACE" not in doubt


def test_indices_are_counted_under_their_names(write):
    path = write(some([0, 1, 1, "yes"]))
    assert told(path, label_names=["no", "yes", "maybe"]) == (
        "labels of the 4 training rows: yes 3, no 1, maybe 0",
        "label_names that no training row has: maybe",
    )


def test_of_rows_to_choose_by_all_training_rows_count(write):
    path = write(some("ab" * 20))
    task = task_from_files(path, validation=path, label_column="label")
    source = SetAside(source=task.source, validation_share=0.5, seed=1)
    task = replace(task, source=source)
    assert task.summary(task.load()) == ("labels of the 40 training rows: a 20, b 20",)


@pytest.mark.parametrize("cell", [*MISSING, "None", "NULL", " Nan ", None, float("nan")])
def test_a_missing_label_is_a_bad_row(cell):
    row = Row(Where("t.csv", 4), {"y": cell, "set": [cell]})
    message = (
        r"^t\.csv:4: column '\w+' holds .*; expected a class name\. The label is missing: fill"
    )
    for read, column in ((cells.label, "y"), (cells.labels, "set")):
        with pytest.raises(TaskError, match=message) as error:
            read(row, column)
        may_be_a_name = isinstance(cell, str) and bool(cell.strip())
        assert ("name of a class" in str(error.value)) == may_be_a_name
    with pytest.raises(TaskError, match=r"expected a finite number\. The number is missing"):
        cells.number(row, "y")
    with pytest.raises(TaskError, match=r"the index of a choice, 0 to 3\. The answer is missing"):
        cells.index(row, "y", 4)


@pytest.mark.parametrize("cell", ["none", "NONE", "nano", "0", "-", "unknown"])
def test_a_value_that_is_not_missing_is_a_class(cell):
    assert cells.label(Row(Where("t.csv", 4), {"y": cell}), "y") == cell


def test_all_missing_labels_are_found_and_may_be_left_out(tmp_path):
    path = tmp_path / "nan.csv"
    lines = [f"doc {n},{'NaN' if n % 3 == 2 else 'yes' if n % 2 else 'no'}" for n in range(60)]
    path.write_text("\n".join(["text,label", *lines]) + "\n")
    with pytest.raises(TaskError, match="40 of 120 rows are bad; the first 10:"):
        loaded(path)
    counts, left_out = told(path, skip_bad_rows=True)
    assert counts == "labels of the 40 training rows: no 20, yes 20"
    assert left_out.startswith("40 bad rows were left out")


def test_a_class_may_be_called_none_if_it_is_listed(write):
    path = write(some(["None", "some", "None"]))
    with pytest.raises(TaskError, match=r"list every label in label_names \(--label-names\)"):
        loaded(path)
    assert told(path, label_names=["None", "some"]) == (
        "labels of the 3 training rows: None 2, some 1",
    )


@pytest.mark.parametrize("labels", [[1, 2, 3, 1], ["1", "2", "3"], [3]])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_indices_that_count_from_1_are_refused(write, labels, split):
    """They are found in the rows of one split, and whether or not bad rows are left out."""
    files = {name: write(some([0, 1, 2]), f"{name}.jsonl") for name in ("train", "validation")}
    files[split] = write(some(labels), f"{split}.jsonl")
    for skip in (False, True):
        task = task_from_files(
            **files, label_column="label", label_names=["low", "mid", "high"], skip_bad_rows=skip
        )
        message = (
            rf"{split}\.jsonl:\d: column 'label' holds '3'; expected an index from 0 to 2, and"
        )
        with pytest.raises(
            TaskError, match=message + r" no row holds 0\. The labels seem to count"
        ):
            task.load()


def test_an_index_too_large_beside_0_is_one_bad_row(write):
    path = write(some([0, 1, 2, 3]))
    with pytest.raises(TaskError, match=r"column 'label' holds '3'; expected one of the 3 labels"):
        loaded(path, label_names=["low", "mid", "high"])
