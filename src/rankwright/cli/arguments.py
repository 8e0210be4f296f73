"""Read the options of a YAML file and of a command line, in one form for the parser.

Nothing here imports torch or transformers, so that data can be checked first.
"""

from __future__ import annotations

import itertools
import json
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from rankwright.core.slots import SLOT_NAMES
from rankwright.errors import MethodError
from rankwright.job.paths import FILES, expanded
from rankwright.yaml_loader import ConfigLoader, yaml_problem

DEFAULT_METHOD = "bidora"
NAMED = ("method", *SLOT_NAMES)
"""Options whose value determines which further options exist."""
NAMES = "label_names"
"""The option that lists names as they are written."""
STARTS = ("resume", "overwrite")
"""Switches that determine how a run starts; they are not part of its description."""


class UsageError(ValueError):
    """The command line, or the file that --config names, does not parse."""


def normalise(argument: str) -> str:
    """Return `--text-column` as `--text_column`, and `--method` or a slot as `--method.name`."""
    if not argument.startswith("--"):
        return argument
    flag, equals, value = argument.partition("=")
    flag = "--" + flag[2:].replace("-", "_")
    return (f"{flag}.name" if flag[2:] in NAMED else flag) + equals + value


def gather_lists(arguments: Sequence[str]) -> list[str]:
    """Return `--data a.csv b.csv`, or `--data a.csv --data b.csv`, as one list in JSON.

    `--label-names yes no`, `yes,no` and `'[yes, no]'` become lists too, of names as written.
    """
    values: dict[str, list[str]] = {}
    others: list[str] = []
    flag = ""
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if argument.startswith("--"):
            flag = name if name[2:] in (*FILES, NAMES) else ""
        if not flag:
            others.append(argument)
        elif equals and argument.startswith("--"):
            values.setdefault(flag, []).append(value)
        elif not argument.startswith("--"):
            values.setdefault(flag, []).append(argument)
        else:
            values.setdefault(flag, [])
    given = [
        f"{flag}={_as_list(flag[2:], every)}" if every else flag for flag, every in values.items()
    ]
    return given + others


def _as_list(option: str, values: list[str]) -> str:
    """Return one value of an option as it stands, several as a list in JSON."""
    if option == NAMES and values != ["null"]:
        return json.dumps(_split_names(values))
    return values[0] if len(values) == 1 else json.dumps(values)


def _split_names(values: list[str]) -> list[str]:
    """Return the names in `[yes, no]` or `yes,no`, or the values themselves."""
    if len(values) > 1:
        return values
    if not values[0].lstrip().startswith("["):
        return [name.strip() for name in values[0].split(",")]
    try:
        listed = yaml.load(f"{NAMES}: {values[0]}", Loader=ConfigLoader)[NAMES]
    except yaml.YAMLError as error:
        raise UsageError(f"--label-names {values[0]}: {yaml_problem(error)}") from error
    return [str(name) for name in listed]


def peek(arguments: Sequence[str], flag: str) -> str | None:
    """Return the value of `flag` before the options are parsed; the last one counts."""
    found = None
    for position, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == flag:
            found = value if equals else next(iter(arguments[position + 1 :]), None)
    return found


def read_config(path: str | None) -> tuple[dict[str, Any], str | None]:
    """Read the options of a YAML file.

    Args:
        path: The file; None for no file.

    Returns:
        Its options by name, with `method.` before those of the method, and its text.

    Raises:
        MethodError: It cannot be read, is not a mapping in YAML, or sets an option twice.
    """
    if path is None:
        return {}, None
    try:
        text = expanded(path).read_text("utf-8")
        values = yaml.load(text, Loader=ConfigLoader)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MethodError(f"cannot read --config {path}: {reason}") from error
    except yaml.YAMLError as error:
        raise MethodError(f"--config {path} is not YAML: {yaml_problem(error)}") from error
    if not isinstance(values, dict):
        raise MethodError(f"--config {path}: expected options as 'name: value' lines")
    fields = _method_fields(values.pop("method"), path) if "method" in values else {}
    options: dict[str, Any] = {}
    for name, value in [*values.items(), *((f"method.{key}", fields[key]) for key in fields)]:
        option = str(name).replace("-", "_")
        if option in options:
            raise MethodError(f"--config {path}: {option} is set twice; keep one")
        options[option] = value
    return options, text


def _method_fields(method: object, path: str) -> dict[str, Any]:
    """Return name and fields of the method that a file describes.

    Raises:
        MethodError: The description is empty or of another form.
    """
    fields = {"name": method} if isinstance(method, str) else method
    if not fields or not isinstance(fields, dict) or not fields.get("name", DEFAULT_METHOD):
        raise MethodError(
            f"--config {path}: method is {method!r}; expected a name, or a mapping of its name and "
            f"fields. Without such a line it is {DEFAULT_METHOD}"
        )
    return fields


def as_arguments(config: Mapping[str, Any]) -> list[str]:
    """Return the options of a file as a command line."""
    return [
        f"--{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in config.items()
    ]


def set_switches(arguments: Sequence[str], types: Mapping[str, Any]) -> list[str]:
    """Return `--bf16` without a value as `--bf16=true`."""
    return [
        f"{argument}=true"
        if _is_switch(types.get(argument[2:]))
        and argument[2:] not in STARTS
        and after.startswith("--")
        else argument
        for argument, after in itertools.pairwise([*arguments, "--"])
    ]


def _is_switch(hint: Any) -> bool:
    return hint is bool or bool in typing.get_args(hint)
