"""Several labels in one cell."""

import pytest

from rankwright.tasks import Row, TaskError, task_from_files
from rankwright.tasks.cells import label_set
from rankwright.tasks.errors import Where


def read(cell, names=None):
    return label_set(Row(Where("f", 1), {"y": cell}), "y", names)


@pytest.mark.parametrize(
    ("cell", "labels"),
    [
        ("sport;news", ["sport", "news"]),
        ("sport; news", ["sport", "news"]),
        ("sport|news|arts", ["sport", "news", "arts"]),
        ("arts, culture;news", ["arts, culture", "news"]),
        ("sport", ["sport"]),
        ('["sport", "news"]', ["sport", "news"]),
        (["a;b", "c"], ["a;b", "c"]),
        ([], []),
        ("[]", []),
    ],
)
def test_names_in_a_cell(cell, labels):
    assert read(cell) == labels


def test_a_name_that_the_user_gives_is_one_name():
    assert read("arts, culture", ["arts, culture"]) == ["arts, culture"]
    with pytest.raises(TaskError, match=r"^f:1: column 'y' holds 'arts, culture'; expected one"):
        read("arts, culture")


@pytest.mark.parametrize("cell", ["a;b|c", "a, b", "a;;b", "a;", "", "NaN", None, {"a": 1}, 1.5])
def test_invalid_sets_of_names_are_refused(cell):
    with pytest.raises(TaskError, match=r"^f:1: column 'y' holds "):
        read(cell)


def test_the_summary_states_the_separators(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("text,labels\na,sport;news\nb,news\nc,sport\n")
    task = task_from_files(path, validation=path)
    splits = task.load()
    assert task.kind == "multi_label"
    assert [task.named(row) for row in splits.train] == [["sport", "news"], ["news"], ["sport"]]
    assert task.summary(splits)[-1] == "labels in one cell of 'labels' are separated by ';'"
