"""YAML: unique keys, numbers in scientific notation, and round trips."""

from __future__ import annotations

import pytest
import yaml

from rankwright.yaml_loader import NumberDumper, NumberLoader, WordLoader, yaml_problem


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ("a: 1\na: 1\n", 2, "'a' is set in line 1"),
        ("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n", 5, "'c' is set in line 3"),
        ("a: {r: 4, r: 8}\n", 1, "'r' is set in line 1"),
        ("- {name: flat}\n- {rho: 1, rho: 1}\n", 2, "'rho' is set in line 2"),
        ("base: &base {r: 4}\nit:\n  <<: *base\n  s: 1\n  s: 2\n", 5, "'s' is set in line 4"),
    ],
)
@pytest.mark.parametrize("loader", [NumberLoader, WordLoader])
def test_a_repeated_key_is_an_error(
    loader: type[NumberLoader], text: str, line: int, key: str
) -> None:
    with pytest.raises(yaml.YAMLError) as caught:
        yaml.load(text, Loader=loader)
    assert yaml_problem(caught.value) == f"line {line}: the key {key} already"


def test_what_is_merged_in_may_be_set_again() -> None:
    text = """
base: &base {r: 4, s: 1}
middle: &middle {<<: *base, r: 8}
last: {<<: *middle, s: 2}
twice: {<<: [*base, *middle], r: 9}
<<: *middle
r: 7
"""
    values = yaml.load(text, Loader=NumberLoader)
    assert values["middle"] == {"r": 8, "s": 1}
    assert values["last"] == {"r": 8, "s": 2}
    assert (values["twice"]["r"], values["r"], values["s"]) == (9, 7, 1)


@pytest.mark.parametrize(
    "value", ["1e5", "2e-5", "-.5e3", "1.0e+5", "yes", "null", "007", 2e-5, 1e22, 0.1, True, None]
)
def test_what_is_written_is_read_back(value: object) -> None:
    written = yaml.dump({"a": [value]}, Dumper=NumberDumper)
    read = yaml.load(written, Loader=NumberLoader)["a"][0]
    assert (type(read), read) == (type(value), value)
