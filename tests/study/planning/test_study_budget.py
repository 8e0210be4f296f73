"""Budgets: the largest number of steps that fits, for every method."""

from __future__ import annotations

from typing import Any

import pytest

from method_table import METHODS, method_named
from rankwright.errors import MethodError
from rankwright.study.planning.budget import Budget, max_steps


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


def test_a_budget_that_is_too_small_is_refused() -> None:
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
def test_an_invalid_budget_is_refused(text: str) -> None:
    with pytest.raises(MethodError, match="expected passes or seconds, such as 2000-passes"):
        Budget.parse(text)


def test_seconds_are_turned_into_steps_by_what_was_measured() -> None:
    budget, method = Budget.parse("60-seconds"), method_named("bidora")
    assert budget.steps(method, seconds_per_pass=0.1) == max_steps(method, 600)
    with pytest.raises(MethodError, match="needs the measured time of a pass"):
        budget.steps(method)
