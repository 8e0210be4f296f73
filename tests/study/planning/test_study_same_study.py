"""A command continues the study that its folder holds, or is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rankwright.errors import MethodError
from rankwright.study.planning.same_study import check_same
from rankwright.study.records.folder import StudyFolder
from rankwright.study.records.records import StudyRecord
from studies import ConfigOf, carry_out, plan_only


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": "9-passes"}, "budget = '8-passes', this command '9-passes'"),
        ({"tune": 1}, "trials = 0, this command 1"),
        ({"methods": [{"method": "lora", "r": 4}]}, "method lora: hyperparameters: r = 8"),
        ({"curve_points": 3}, "curve_points = 8, this command 3"),
        ({"held_text": __file__}, "held_text = None, this command '[0-9a-f]{64}'"),
        ({"options": {"batch_size": 8}}, "task train: options: batch_size = 4, this command 8"),
    ],
)
def test_another_study_is_refused(config_of: ConfigOf, changes: Any, message: str) -> None:
    config = config_of(methods="lora")
    plan_only(config)
    with pytest.raises(MethodError, match=message):
        carry_out(config_of(**{"methods": "lora", **changes}))


def test_a_field_that_an_older_study_lacks_is_none() -> None:
    check_same("task", {"rows": [1], "of": {"a": 1}}, {"rows": (1,), "of": {"a": 1}, "new": None})
    with pytest.raises(MethodError, match="task: of: a = 1, this command None"):
        check_same("task", {"of": {"a": 1}}, {"of": {}})


def test_baseline_and_against_may_change(config_of: ConfigOf) -> None:
    plan_only(config_of(methods="lora,dora"))
    changed = config_of(methods=["lora", {"method": "dora", "against": "lora"}], baseline="dora")
    plan_only(changed)
    record = StudyRecord.load(Path(str(changed.output)) / "study.json")
    assert record.against == {"dora": "lora", "lora": "dora"}


def test_summary_and_reference_may_change(config_of: ConfigOf) -> None:
    config = config_of(methods="lora")
    plan_only(config)
    folder = StudyFolder(Path(str(config.output)))
    values = json.loads(folder.description.read_text("utf-8"))
    values["methods"][0] |= {"summary": "in other words", "reference": "in a journal by now"}
    folder.description.write_text(json.dumps(values), encoding="utf-8")
    plan_only(config)
    assert StudyRecord.load(folder.description).methods[0].summary != "in other words"


@pytest.mark.parametrize(
    ("changed", "split"), [("data", "train|validation"), ("held_out_data", "held_out")]
)
def test_changed_data_is_refused(
    config_of: ConfigOf, rows_file: Path, tmp_path: Path, changed: str, split: str
) -> None:
    data = tmp_path / "train.jsonl"
    data.write_text(rows_file.read_text("utf-8"), encoding="utf-8")
    options = {"data": str(rows_file), "held_out_data": str(rows_file), changed: str(data)}
    plan_only(config_of(options=options))
    with data.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"sentence": "w1 w2 w3", "topic": "low"}) + "\n")
    with pytest.raises(MethodError, match=f"task train: data_sha256: ({split}) "):
        carry_out(config_of(options=options))
