"""The analysis of magnitude and direction."""

import math

import pytest
import torch
from scipy import stats

from rankwright.peft_layers.decomposition import (
    direction_change,
    magnitude_change,
    weight_decomposition,
)


def test_pure_changes() -> None:
    W = torch.randn(5, 4, dtype=torch.float64)
    assert float(magnitude_change(W, -W)) == 0
    assert float(direction_change(W, -W)) == pytest.approx(2)
    assert float(magnitude_change(W, 3 * W)) == pytest.approx(2 * float(W.norm(dim=1).mean()))
    assert float(direction_change(W, 3 * W)) == pytest.approx(0, abs=1e-15)
    assert float(direction_change(0 * W, 0 * W)) == 0


def test_trend_agrees_with_scipy() -> None:
    torch.manual_seed(0)
    initial = {name: torch.randn(6, 5) for name in "abc"}
    steps = [{n: W + t * 0.1 * torch.randn(6, 5) for n, W in initial.items()} for t in (1, 2, 3)]
    steps.append(steps[0])  # ties
    found = weight_decomposition(initial, steps)
    x, y = found.direction.flatten().numpy(), found.magnitude.flatten().numpy()
    line = stats.linregress(x, y)
    assert found.slope == pytest.approx(line.slope)
    assert found.intercept == pytest.approx(line.intercept)
    assert found.pearson == pytest.approx(line.rvalue)
    assert found.spearman == pytest.approx(stats.spearmanr(x, y).statistic)


def test_trend_of_no_change_is_not_a_number() -> None:
    W = {"a": torch.eye(3)}
    found = weight_decomposition(W, [W, W])
    assert math.isnan(found.slope)
    assert math.isnan(found.pearson)
    assert math.isnan(found.spearman)


def test_unusable_checkpoints() -> None:
    W = {"a": torch.eye(3)}
    with pytest.raises(
        ValueError, match=r"checkpoint 1 and the initial weights differ in .*: a, b"
    ):
        weight_decomposition(W, [W, {"b": torch.eye(3)}])
    with pytest.raises(ValueError, match="at least two points"):
        weight_decomposition(W, [W])
