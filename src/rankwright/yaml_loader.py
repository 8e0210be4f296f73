"""YAML loading closer to version 1.2; PyYAML follows 1.1, with surprising numbers and dates.

A repeated key is an error: PyYAML would silently take the last one.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

_BOOL, _DATE = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp"
_FLOAT, _MERGE = "tag:yaml.org,2002:float", "tag:yaml.org,2002:merge"
_STR = "tag:yaml.org,2002:str"
_SCIENTIFIC = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")


class NumberLoader(yaml.SafeLoader):
    """Reads 2e-5 as a number and 2026-11-23 as a string, as YAML 1.2 does; keys must be unique.

    PyYAML reads only 2.0e-5 as a number, and 2026-11-23 as a date, which no option is.
    """

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._checked: set[yaml.MappingNode] = set()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge the keys of `<<` into a mapping after checking that its own are distinct.

        Raises:
            yaml.constructor.ConstructorError: A key is repeated.
        """
        if node not in self._checked:  # after a merge, a key may stand beside the node's own
            self._checked.add(node)
            _check_distinct(node)
        super().flatten_mapping(node)


class ConfigLoader(NumberLoader):
    """Reads the items of `label_names` as texts: yes, 1 and true are such names."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge as `NumberLoader` does, then keep the items of `label_names` as texts."""
        super().flatten_mapping(node)
        for key, value in node.value:
            if str(key.value).replace("-", "_") == "label_names":
                _keep_as_text(value)


def _keep_as_text(node: yaml.Node) -> None:
    for item in node.value if isinstance(node, yaml.SequenceNode) else ():
        if isinstance(item, yaml.ScalarNode):
            item.tag = _STR


def yaml_problem(error: Exception) -> str:
    """Describe a YAML error on one line, with the line number if known."""
    mark = getattr(error, "problem_mark", None)
    line = "" if mark is None else f"line {mark.line + 1}: "
    return line + " ".join(str(getattr(error, "problem", None) or error).split())


def _check_distinct(node: yaml.MappingNode) -> None:
    lines: dict[tuple[str, str], int] = {}
    for key, _ in node.value:
        name = (key.tag, str(key.value))
        if name in lines and key.tag != _MERGE:
            raise yaml.constructor.ConstructorError(
                problem=f"the key {key.value!r} is set in line {lines[name]} already",
                problem_mark=key.start_mark,
            )
        lines[name] = key.start_mark.line + 1


NumberLoader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in resolvers if tag != _DATE]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
NumberLoader.add_implicit_resolver(_FLOAT, _SCIENTIFIC, list("-+.0123456789"))


class NumberDumper(yaml.SafeDumper):
    """Writes YAML that `NumberLoader` reads back unchanged: it quotes strings such as 1e5."""


NumberDumper.add_implicit_resolver(_FLOAT, _SCIENTIFIC, list("-+.0123456789"))


class WordLoader(NumberLoader):
    """Reads yes, no, on and off as texts, as YAML 1.2 does: they are names of classes."""


WordLoader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in resolvers if tag != _BOOL or first in "tTfF"]
    for first, resolvers in NumberLoader.yaml_implicit_resolvers.items()
}
