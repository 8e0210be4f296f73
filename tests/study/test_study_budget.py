"""Budgets: as many steps as fit, for every method; what is asked for, read as it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from method_table import METHODS, method_named
from rankwright.errors import MethodError
from rankwright.study.planning.budget import Budget, max_steps
from rankwright.study.planning.config import StudyConfig
from rankwright.study.planning.specs import MethodSpec, TaskSpec
from rankwright.tasks import load_task, task_name


@pytest.mark.parametrize("passes", [24, 100.5, 2000])
@pytest.mark.parametrize("name", METHODS)
def test_the_most_steps_that_fit(name: str, passes: float) -> None:
    method = method_named(name)
    steps = max_steps(method, passes)
    assert method.made_of().passes(steps) <= passes + 1e-6 < method.made_of().passes(steps + 1) + 1
    assert steps >= 1


@pytest.mark.parametrize(
    ("fields", "passes", "steps"),
    [
        ({"search_fraction": 0.5}, 2000, 1000),  # half of the steps take three passes
        ({"search_fraction": 0.5, "hypergradient": "first_order"}, 2000, 1333),
        ({"search_fraction": 0.5, "unroll_steps": 4}, 2000, 1600),
        ({"retrain": False}, 2000, 666),
    ],
)
def test_bidora_pays_for_its_passes(fields: dict[str, Any], passes: float, steps: int) -> None:
    assert max_steps(method_named("bidora", **fields), passes) == steps


def test_a_budget_that_is_too_small() -> None:
    with pytest.raises(MethodError, match="3 passes are not enough for xgblora"):
        max_steps(method_named("xgblora", rounds=4), 3)


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("2000-passes", 2000, "passes"),
        ("90 seconds", 90, "seconds"),
        ("1.5-seconds", 1.5, "seconds"),
        ("1234567-passes", 1234567, "passes"),
    ],
)
def test_a_budget_is_read(text: str, amount: float, unit: str) -> None:
    budget = Budget.parse(text)
    assert (budget.amount, budget.unit) == (amount, unit)
    assert Budget.parse(str(budget)) == budget


@pytest.mark.parametrize("text", ["2000", "0-passes", "-3-passes", "2000-steps", "passes"])
def test_no_budget(text: str) -> None:
    with pytest.raises(MethodError, match="expected passes or seconds, such as 2000-passes"):
        Budget.parse(text)


def test_seconds_are_turned_into_steps_by_what_was_measured() -> None:
    budget, method = Budget.parse("60-seconds"), method_named("bidora")
    assert budget.steps(method, seconds_per_pass=0.1) == max_steps(method, 600)
    with pytest.raises(MethodError, match="needs the measured time of a pass"):
        budget.steps(method)


def config(**values: Any) -> StudyConfig:
    return StudyConfig(**{"methods": "lora", "task": "stdlib-docs", **values})


def test_rates_that_are_not_given_are_the_middle_of_what_is_declared() -> None:
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
    """As `rankwright train` calls them."""
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
def test_a_study_that_cannot_be(values: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        config(**values)


def test_seeds_are_a_number_or_themselves() -> None:
    assert config(seeds=2).parsed_seeds == (0, 1)
    for seeds in ("3,0", "3, 0", [3, 0]):
        assert config(seeds=seeds).parsed_seeds == (3, 0)


def test_an_option_that_no_run_has() -> None:
    with pytest.raises(MethodError, match="colour: a run has no such option"):
        config(options={"colour": 3})
