"""Options of a task by name, from keyword arguments or a YAML file, checked against their types."""

from __future__ import annotations

import os
import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rankwright.tasks.errors import TaskError, listing, no_such_file, shorten, suggestion
from rankwright.yaml_loader import WordLoader

VARIABLE = re.compile(r"\$\{(\w+)\}")
DATA_FILES: Any = tuple[str, ...] | None
"""Type of an option that names data files."""


@dataclass
class Options:
    """Options by name, with their lines if they are from a YAML file.

    Attributes:
        values: The options.
        path: The YAML file, if there is one; relative data paths start at its folder.
        lines: The 1-based line of every option in that file.
    """

    values: dict[str, Any]
    path: Path | None = None
    lines: dict[str, int] = field(default_factory=dict)

    def error(self, option: str, problem: str) -> TaskError:
        """Return an error that names the option, and its line if it has one."""
        place = f"{self.path}:{self.lines[option]}: " if option in self.lines else ""
        return TaskError(f"{place}option {option}: {problem}")

    def override(self, overrides: Mapping[str, object]) -> None:
        """Replace options; replaced options no longer have a line."""
        self.values |= overrides
        for option in overrides:
            self.lines.pop(option, None)

    def check(self, hints: Mapping[str, object]) -> None:
        """Check the names and types of all options, and turns lists into tuples.

        Args:
            hints: The type of every valid option.

        Raises:
            TaskError: If an option is unknown or of a wrong type.
        """
        for option, value in self.values.items():
            if option not in hints:
                known = listing(sorted(hints), limit=len(hints))
                raise self.error(
                    option, f"unknown here; expected one of {known}.{suggestion(option, hints)}"
                )
            try:
                self.values[option] = convert(value, hints[option])
            except TypeError as error:
                raise self.error(option, f"it is {shorten(value)}; expected {error}.") from None

    def take(self, names: Iterable[str]) -> dict[str, Any]:
        """Remove the named options, and return those that are set."""
        return {name: self.values.pop(name) for name in names if name in self.values}

    def data_path(self, option: str) -> Path | tuple[Path, ...] | None:
        """Remove an option with data paths, and return the paths.

        Relative paths start at `root`, and a relative `root` at the folder of the YAML file.

        Returns:
            One path or several; `None` if the option is not set.

        Raises:
            TaskError: If a path names an environment variable that is not set.
        """
        value = self.values.pop(option, None)
        if value is None:
            return None
        if not value:
            raise self.error(option, "it names no file.")
        root = self._expanded("root", self.values.get("root") or "")
        start = (self.path or Path()).parent / root
        paths = tuple(start / self._expanded(option, path) for path in value)
        return paths[0] if len(paths) == 1 else paths

    def _expanded(self, option: str, text: str) -> Path:
        for name in VARIABLE.findall(text):
            if name not in os.environ:
                raise self.error(
                    option,
                    f"{shorten(text)} names the environment variable {name}, which is not set. "
                    f"Set it, for example: export {name}=/path/to/data",
                )
        return Path(VARIABLE.sub(lambda match: os.environ[match[1]], text)).expanduser()


def read_yaml(path: Path) -> Options:
    """Read a mapping of options and their lines.

    Raises:
        TaskError: If the file is missing, does not parse, or is not a mapping of distinct names.
    """
    try:
        text = path.read_text(encoding="utf-8")
        loader = WordLoader(text)
        root = loader.get_single_node()
        lines = _lines(root, path) if isinstance(root, yaml.MappingNode) else {}
        values = loader.construct_document(root) if lines else {}
    except FileNotFoundError:
        raise no_such_file(path) from None
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"{path}: cannot be read ({error}).") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f":{mark.line + 1}"
        problem = getattr(error, "problem", error)
        raise TaskError(f"{path}{line}: does not parse as YAML ({problem}).") from error
    if not isinstance(root, yaml.MappingNode):
        raise TaskError(f"{path}: expected lines of 'option: value'; see docs/tasks.md.")
    return Options({str(name): value for name, value in values.items()}, path, lines)


def _lines(root: yaml.MappingNode, path: Path) -> dict[str, int]:
    """Return the 1-based line of every option of a file."""
    options = Options({}, path)
    for key, _ in root.value:
        line_number = key.start_mark.line + 1
        if key.value in options.lines:
            raise options.error(key.value, f"it is set again in line {line_number}. Keep one.")
        options.lines[key.value] = line_number
    return options.lines


def convert(value: object, hint: Any) -> object:
    """Convert a value to the type of its hint: paths to texts, lists to tuples.

    Raises:
        TypeError: If that is impossible; the message is the expected value.
    """
    arguments = typing.get_args(hint)
    if isinstance(hint, types.UnionType):
        if value is None and types.NoneType in arguments:
            return None
        hint = next(argument for argument in arguments if argument is not types.NoneType)
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if typing.get_origin(hint) is tuple:
        return _names(value)
    if hint is float and isinstance(value, int):
        return float(value)
    # True is an int to Python, but nobody means it as a number.
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        known = {str: "a text", int: "an integer", float: "a number", bool: "true or false"}
        raise TypeError(known.get(hint, "a mapping"))
    return value


def _names(value: object) -> tuple[str, ...]:
    items = value if isinstance(value, list | tuple) else [value]
    names = [os.fspath(item) if isinstance(item, os.PathLike) else item for item in items]
    if not all(isinstance(name, str | int) for name in names):
        raise TypeError("a list of names")
    return tuple(map(str, names))
