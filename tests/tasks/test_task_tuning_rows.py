"""Rows to choose by: a share of the training rows, disjoint from what is reported."""

import pytest

from rankwright.errors import MethodError
from rankwright.job import TrainConfig
from rankwright.tasks import SetAside, task_from_files
from saved_models import labelled_rows, write_rows


def split(task):
    return {name: {r.fields["sentence"] for r in rows or ()} for name, rows in task.by_name.items()}


def test_they_are_training_rows_and_the_reported_ones_are_not_there(rows_file):
    config = TrainConfig(
        model="m", data=str(rows_file), text_column="sentence", label_column="topic",
        validation_share=0.3, tuning_share=0.3,
    )  # fmt: skip
    whole = task_from_files(
        rows_file, text_column="sentence", label_column="topic", validation_share=0.3
    )
    reported, tuning = split(whole.load()), split(config.make_task().load())
    assert tuning["train"] | tuning["validation"] == reported["train"]
    assert tuning["train"]
    assert tuning["validation"]
    assert not tuning["test"]
    assert not tuning["train"] & tuning["validation"]
    assert 0.1 < len(tuning["validation"]) / len(reported["train"]) < 0.5


def test_it_works_with_the_user_s_own_files(tmp_path, rows_file):
    validation = write_rows(tmp_path / "v.jsonl", labelled_rows(9, seed=5))
    task = task_from_files(
        rows_file, validation=validation, test=validation, text_column="sentence",
        label_column="topic",
    )  # fmt: skip
    rows = split(SetAside(source=task.source, validation_share=0.5, seed=1).load(("sentence",)))
    assert not (rows["train"] | rows["validation"]) & split(task.load())["validation"]


@pytest.mark.parametrize("share", [2.0, 0.0, 1.0, -0.1])
def test_a_share_is_a_share(rows_file, share):
    with pytest.raises(MethodError, match=r"tuning.share.*: expected a share between 0 and 1"):
        TrainConfig(model="m", data=str(rows_file), label_column="topic", tuning_share=share)
