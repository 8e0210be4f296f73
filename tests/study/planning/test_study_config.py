"""The configuration of a study: methods, tasks, seeds and options, and the mistakes in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rankwright.errors import MethodError
from rankwright.study.planning.config import StudyConfig
from rankwright.study.planning.specs import MethodSpec, TaskSpec
from rankwright.tasks import load_task, task_name


def config(**values: Any) -> StudyConfig:
    return StudyConfig(**{"methods": "lora", "task": "stdlib-docs", **values})


def test_rates_default_to_the_middle_of_the_search_range() -> None:
    study = config(methods="lora,full", options={"head_learning_rate": 0.5})
    task, (lora, full) = study.parsed_tasks[0], study.parsed_methods
    assert study.train_config(task, lora).learning_rate == 1e-3
    assert study.train_config(task, full).learning_rate == 1e-4
    assert study.train_config(task, full).head_learning_rate == 0.5
    fixed = MethodSpec.parse({"method": "full", "learning_rate": 2e-5})
    assert study.train_config(task, fixed).learning_rate == 2e-5
    assert "learning_rate" not in fixed.space


def test_parts_are_plugged_and_labels_are_free() -> None:
    spec = MethodSpec.parse({"method": "lora", "label": "qr", "init": "olora", "r": 2})
    assert (spec.label, spec.method.label) == ("qr", "lora+olora")
    assert "r" not in spec.space
    tuned = spec.with_values({"learning_rate": 1e-2, "lora_alpha": 4.0})
    assert (tuned.method.lora_alpha, tuned.options) == (4.0, {"learning_rate": 1e-2})
    assert tuned.method.label == "lora+olora"


def test_tasks_have_short_names(tmp_path: Path) -> None:
    """`rankwright train` uses the same names."""
    assert TaskSpec.parse("examples/tasks/rte.yaml").label == "rte"
    assert TaskSpec.parse("glue/rte").label == "glue/rte"
    assert TaskSpec.parse({"task": "rte", "label": "small", "train_rows": 9}).label == "small"
    assert TaskSpec.parse({"task": "rte", "label": "r.5"}).label == "r.5"
    assert TaskSpec.parse("owner/name.v2").label == "owner/name.v2"
    columns = {"text_column": "text", "label_column": "label"}
    (tmp_path / "v2.yaml").write_text("name: topics\ntrain: rows.csv\n", encoding="utf-8")
    names = {"reviews.de.jsonl.gz": "reviews", "sub/x.parquet": "x", "v2.yaml": "topics"}
    for file, name in names.items():
        path = str(tmp_path / file)
        assert TaskSpec.parse({"task": path, **columns}).label == name
        assert load_task(path, **columns).name == name
        assert load_task(path, **columns).name == task_name(path)


def test_two_files_are_two_studies() -> None:
    for file, name in (("cats.csv", "cats"), ("more/dogs.jsonl", "dogs")):
        columns = {"text_column": "text", "label_column": "label"}
        study = config(task=None, options={"data": file, **columns})
        (task,) = study.parsed_tasks
        assert task.label == study.train_config(task, study.parsed_methods[0]).make_task().name
        assert task.label == name


def test_a_task_may_have_a_budget_of_its_own() -> None:
    tasks = [{"task": "rte", "label": "long", "budget": "20-passes"}, "rte"]
    study = config(task=tasks, budget="9-seconds")
    assert [str(study.budget_of(task)) for task in study.parsed_tasks] == ["20-passes", "9-seconds"]
    assert "budget" not in study.parsed_tasks[0].options


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"methods": "lora,lora"}, "'lora' and 'lora' have the same files; give each its own"),
        (
            {"methods": [{"method": "lora", "label": label} for label in ("r 8", "r-8")]},
            "methods: 'r 8' and 'r-8' have the same files; give each its own `label`",
        ),
        ({"task": ["a/b", {"task": "rte", "label": "a b"}]}, "task: 'a/b' and 'a b' have the same"),
        (
            {"methods": ["lora", {"method": "full", "learning_rate": "fast"}]},
            "learning_rate = 'fast': expected float",
        ),
        ({"methods": [{"method": "lora", "r": "8"}]}, "methods: lora: r = '8': expected int"),
        ({"methods": [{"method": "lora", "r": True}]}, "methods: lora: r = True: expected int"),
        ({"methods": [{"method": "lora", "init": 3}]}, "3: expected the name of a part, or a"),
        ({"task": [{"task": "rte", "batch_size": "8"}]}, "batch_size = '8': expected int"),
        (
            {"task": [{"task": "rte", "max_length": 9.5}]},
            r"max_length = 9.5: expected int \| None",
        ),
        ({"methods": [3]}, "methods: 3: expected a name, or a mapping with `method`"),
        ({"methods": ["lora", None]}, "methods: None: expected a name"),
        ({"task": [3]}, "task: 3: expected a name, or a mapping with `task` or `data`"),
        (
            {"methods": [{"method": "lora", "space": ["r"]}]},
            r"space = \['r'\]: expected a mapping, from names to what to search",
        ),
        ({"methods": "lorra"}, "unknown method 'lorra'"),
        ({"methods": [{"r": 3}]}, "expected a name, or a mapping with `method`"),
        (
            {"methods": [{"method": "lora", "rank": 3}]},
            r"lora: rank: expected one of its fields \(.*lora_alpha",
        ),
        ({"methods": [{"method": "lora", "space": {"r": 3}}]}, "expected a list of values, or low"),
        ({"methods": [{"method": "lora", "space": {"rr": [3]}}]}, "lora: rr: expected one of its"),
        (
            {"methods": [{"method": "lora", "space": {"r": {"low": 3, "high": 1}}}]},
            "space: r = .*<",
        ),
        ({"methods": [{"method": "lora", "init": "nope"}]}, "nope"),
        ({"methods": []}, "expected names, comma separated or in a list"),
        ({"task": [{"task": "rte", "seed": 3}]}, "expected a name, or a mapping with `task`"),
        ({"task": [{"task": "rte", "budget": 9}]}, "budget = '9': expected passes or seconds"),
        ({"seeds": [1, 1]}, "different whole numbers"),
        ({"seeds": "1,x"}, "different whole numbers such as 0,1,5"),
        ({"seeds": 0}, "a number of at least 1"),
        ({"budget": "9"}, "expected passes or seconds, such as"),
        ({"baseline": "dora"}, "baseline = 'dora': expected one of lora"),
        (
            {"methods": ["lora", {"method": "dora", "against": "dora"}]},
            "methods: dora: against = 'dora': expected another method of the study: lora",
        ),
        ({"tune": -1}, "tune = -1: expected at least 0"),
        ({"jobs": 0}, "jobs = 0: expected at least 1"),
        ({"tuning_share": 1.0}, "a share between 0 and 1"),
        ({"options": {"steps": 3}}, "steps: a study decides this for every run"),
        (
            {"options": {"trainer": {"load_best_model_at_end": True}}},
            "load_best_model_at_end = True: a study reports every method after its last step",
        ),
        (
            {"task": [{"task": "rte", "trainer": {"load_best_model_at_end": True}}]},
            "trainer.load_best_model_at_end = True",
        ),
    ],
)
def test_an_invalid_configuration_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        config(**values)


def test_seeds_are_a_count_or_a_list() -> None:
    assert config(seeds=2).parsed_seeds == (0, 1)
    for seeds in ("3,0", "3, 0", [3, 0]):
        assert config(seeds=seeds).parsed_seeds == (3, 0)


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(MethodError, match="colour: a run has no such option"):
        config(options={"colour": 3})
