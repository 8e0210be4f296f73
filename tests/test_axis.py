"""Axes: ranges, places, ticks and their labels."""

from __future__ import annotations

import math

import pytest

from rankwright.axis import Axis, format_signed_tick, format_tick


@pytest.mark.parametrize(
    ("values", "log", "ticks"),
    [
        ([0.0, 100.0], False, ["0", "20", "40", "60", "80", "100"]),
        ([0.61, 0.64], False, ["0.61", "0.62", "0.63", "0.64"]),
        ([770, 22_713_986], None, ["1000", "10 k", "100 k", "1 M", "10 M"]),
        ([-3.0, 5.0], None, ["−2", "0", "2", "4"]),
        ([5.0], None, ["4.8", "5", "5.2"]),
        ([6.2e-4, 7.9e-4], True, ["0.00065", "0.0007", "0.00075", "0.0008"]),
    ],
)
def test_ticks_are_round_and_on_the_axis(
    values: list[float], log: bool | None, ticks: list[str]
) -> None:
    axis = Axis.over(values, 0, 100, log=log)
    shown = axis.ticks(format_tick, most=6)
    assert [text for _, text in shown] == ticks
    assert all(0 <= place <= 100 for place, _ in shown)
    assert all(0 < axis.at(value) < 100 for value in values)


def test_a_value_outside_the_axis_is_put_on_its_edge() -> None:
    axis = Axis.over([0.0, 1.0], 10, 20, room=0.0)
    assert (axis.at(-math.inf), axis.at(0.5), axis.at(7.0)) == (10, 15, 20)


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0.0, 11.0], [0, 5, 10]),
        ([0.0, 2.0], [0, 1, 2]),
        ([1.0, 4000.0], [0, 1000, 2000, 3000, 4000]),
        ([3.0, 3.0], [3]),
    ],
)
def test_ticks_can_be_whole_numbers_only(values: list[float], ticks: list[float]) -> None:
    assert Axis.over(values, room=0.04).tick_values(whole=True) == ticks


def test_the_range_stays_within_the_bounds() -> None:
    axis = Axis.over([0.2, 1.0, math.inf, math.nan], room=0.1, bounds=(0.0, 1.0))
    assert (axis.low, axis.high) == (pytest.approx(0.12), 1.0)


def test_labels_of_ticks() -> None:
    assert [format_tick(value) for value in (-2.0, 0.5, 9000, 20_000, 2e6)] == [
        "−2", "0.5", "9000", "20 k", "2 M",
    ]  # fmt: skip
    assert [format_signed_tick(value) for value in (20, 1e-15, -0.5)] == ["+20", "0", "−0.5"]
