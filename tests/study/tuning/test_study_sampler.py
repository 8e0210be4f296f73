"""Values of trials: the untuned method first, then draws that depend on the trial alone."""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from fake_trials import FINITE, OPENED, FakeTrials, make_search, open_search, run_search
from rankwright.core.search_space import LogRange, OneOf
from rankwright.errors import MethodError
from rankwright.study.planning.plan import make_plan
from rankwright.study.tuning.sampler import SeededSampler
from rankwright.study.tuning.search import tune
from rankwright.study.tuning.storage import open_storage
from studies import ConfigOf


def test_given_values_are_not_tuned(config_of: ConfigOf) -> None:
    own = {"method": "bidora", "r": 4, "learning_rate": 1e-3, "space": {"upper_lr": [1e-3, 1e-2]}}
    config = config_of(methods=[own], tune=1, options={"head_learning_rate": 3e-2})
    found = open_search(make_plan(config, "c"), FakeTrials(float))
    assert set(found.spec.space) == {"unroll_steps", "search_fraction", "retrain_from", "upper_lr"}
    assert found.spec.first_values == {
        "unroll_steps": 1, "search_fraction": 0.5, "retrain_from": "snapshot", "upper_lr": 1e-3,
    }  # fmt: skip


def test_draws_are_a_function_of_the_trial(config_of: ConfigOf) -> None:
    def drawn(seed: str) -> list[tuple[float, float]]:
        study = optuna.create_study(sampler=SeededSampler(seed, {}))
        return [
            (t.suggest_float("a", 0, 1), t.suggest_float("b", 0, 1))
            for t in (study.ask() for _ in range(4))
        ]

    assert drawn("x") == drawn("x") != drawn("y")
    assert len({value for pair in drawn("x") for value in pair}) == 8


def test_methods_of_a_task_try_the_same_places_of_their_ranges(config_of: ConfigOf) -> None:
    planned = make_plan(config_of(methods="lora,dora,lora_rite", tune=5), "c")
    processes = FakeTrials(float)
    kept = OPENED.enter_context(open_storage(None, planned.folder.storage))
    searches = [
        make_search(kept, planned, processes, method) for method in planned.config.parsed_methods
    ]
    lora, dora, rite = (record.trials for record in tune(searches, processes.jobs)[0])
    assert [trial.parameters for trial in lora] == [trial.parameters for trial in dora]
    assert len({trial.parameters["learning_rate"] for trial in lora}) == 5
    for wide, narrow in zip(lora, rite, strict=True):  # 1e-4 to 1e-2, and 3e-5 to 3e-3
        rate = narrow.parameters["learning_rate"]
        assert rate == pytest.approx(0.3 * wide.parameters["learning_rate"], rel=1e-12)


def test_no_point_of_a_finite_space_is_tried_twice(config_of: ConfigOf) -> None:
    own = {**FINITE, "space": {"r": [2, 4, 8], "use_rslora": [True, False]}}
    for tune_, count in ((5, 5), (20, 6)):
        output = f"{config_of().output}-{tune_}"
        planned = make_plan(config_of(methods=[own], tune=tune_, output=output), "c")
        record = run_search(open_search(planned, FakeTrials(float)))
        assert record.trials[0].parameters == {"r": 8, "use_rslora": False}
        assert len({tuple(trial.parameters.items()) for trial in record.trials}) == count
        assert len(record.trials) == count


def test_the_first_trial_is_the_untuned_method(config_of: ConfigOf) -> None:
    """Here with a rate outside its range, a list of rates, and options of the Trainer."""
    own = {
        "method": "lora", "r": 8, "learning_rate": 2e-3, "weight_decay": 0.1,
        "space": {
            "learning_rate": {"low": 1e-4, "high": 1e-2}, "head_learning_rate": [1e-3, 1e-2],
            "weight_decay": [0.0, 0.1], "schedule": ["constant", "linear"],
            "warmup": {"low": 0.01, "high": 0.02},
        },
    }  # fmt: skip
    found = open_search(make_plan(config_of(methods=[own], tune=1), "c"), FakeTrials(float))
    assert found.spec.first_values == {
        "learning_rate": 2e-3, "head_learning_rate": 1e-3, "weight_decay": 0.1,
        "schedule": "linear", "warmup": 0.014,
    }  # fmt: skip


@pytest.mark.parametrize(
    "choice", [(LogRange, 0.0, 1.0), (LogRange, 2.0, 1.0), (OneOf, ())], ids=str
)
def test_a_space_without_values_is_refused(choice: Any) -> None:
    kind, *values = choice
    with pytest.raises(MethodError, match="expected"):
        kind(*values)
