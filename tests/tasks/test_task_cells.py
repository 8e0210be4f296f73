"""Numbers and indices in the cells of a row."""

import pytest

from rankwright.tasks import Row, TaskError, cells
from rankwright.tasks.errors import Where


@pytest.mark.parametrize(
    ("cell", "number"),
    [
        *((1, 1), (1.5, 1.5), ("1", 1), ("-2.5", -2.5), ("+.5", 0.5), ("3.", 3), ("1e-3", 1e-3)),
        *((" 1", 1), ("1\t", 1)),
    ],
)
def test_spellings_of_a_number(cell, number):
    assert cells.number(Row(Where("f", 1), {"y": cell}), "y") == number


NO_NUMBERS = [
    *("1_0", "\uff11", "inf", "-inf", "Infinity", "0x10", "1e", "1 0", ".", "1e999"),
    *("nan", "NaN", "", " ", None, float("nan")),
    *(True, [1], {}, float("inf"), 10**400),
]


@pytest.mark.parametrize("cell", NO_NUMBERS)
def test_numbers_that_only_python_accepts_are_refused(cell):
    with pytest.raises(TaskError, match=r"^f:1: column 'y' holds .*; expected a finite number\."):
        cells.number(Row(Where("f", 1), {"y": cell}), "y")


@pytest.mark.parametrize("cell", ["1,5", "-1,5", "1,000"])
def test_a_decimal_comma_is_explained(cell):
    with pytest.raises(TaskError, match="Write the decimal point as a point, and no separator"):
        cells.number(Row(Where("f", 1), {"y": cell}), "y")


@pytest.mark.parametrize("cell", [2, -1, "2", "\uff11", "1_0", "01", "1.0", 1.0, True, None, "b"])
def test_a_value_that_is_not_an_index_is_refused(cell):
    with pytest.raises(TaskError, match=r"^f:1: column 'y' holds .*; expected the index of a ch"):
        cells.index(Row(Where("f", 1), {"y": cell}), "y", 2)


def test_an_index_is_an_integer_or_spells_one():
    values = [0, 1, "0", " 1 "]
    assert [cells.index(Row(Where("f", 1), {"y": c}), "y", 2) for c in values] == [0, 1, 0, 1]
