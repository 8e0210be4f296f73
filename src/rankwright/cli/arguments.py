"""Options of a YAML file and of a command line, normalised before they are parsed.

Nothing here imports torch or transformers, so that data can be checked first.
"""

from __future__ import annotations

import itertools
import json
import re
import typing
from argparse import HelpFormatter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from rankwright.core.slots import SLOT_NAMES
from rankwright.errors import MethodError, did_you_mean
from rankwright.job.paths import FILES, expanded
from rankwright.yaml_loader import ConfigLoader, yaml_problem

DEFAULT_METHOD = "bidora"
NAMED = ("method", *SLOT_NAMES)
"""Options whose value decides which further options there are."""
NAMES = "label_names"
STARTS = ("resume", "overwrite")
"""Switches that say how a run starts; they are no fields of its description."""


class UsageError(ValueError):
    """The command line, or the file that --config names, does not parse."""


class Parser(ArgumentParser):
    """A parser whose help shows `--method.name` and `--batch_size` as users type them."""

    def format_help(self, formatter: HelpFormatter | None = None) -> str:
        """The help, with flags spelled as in the guides."""
        text = super().format_help(formatter)
        for name in NAMED:
            text = text.replace(f"--{name}.name NAME", f"--{name} NAME     ")
        return re.sub(r"--[a-z]+(_[a-z]+)+(?![\w.])", lambda flag: flag[0].replace("_", "-"), text)


def normalise(argument: str) -> str:
    """`--text-column` as `--text_column`, and `--method` as `--method.name`, so for every slot."""
    if not argument.startswith("--"):
        return argument
    flag, equals, value = argument.partition("=")
    flag = "--" + flag[2:].replace("-", "_")
    return (f"{flag}.name" if flag[2:] in NAMED else flag) + equals + value


def gathered(arguments: Sequence[str]) -> list[str]:
    """`--data a.csv b.csv`, or `--data a.csv --data b.csv`, as one list in JSON.

    So are `--label-names yes no`, `yes,no` and `'[yes, no]'`: names as they are written.
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
        f"{flag}={_listed(flag[2:], every)}" if every else flag for flag, every in values.items()
    ]
    return given + others


def _listed(option: str, values: list[str]) -> str:
    """The values of an option: one as it stands, several as a list in JSON."""
    if option == NAMES and values != ["null"]:
        return json.dumps(_names(values))
    return values[0] if len(values) == 1 else json.dumps(values)


def _names(values: list[str]) -> list[str]:
    """The names in `[yes, no]` or `yes,no`, or the values themselves."""
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
    """Value of `flag` before the options are parsed; the last one counts."""
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
        Its options by name, with `method.` before those of the method; and its text.

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
    """Name and fields of the method that a file describes.

    Raises:
        MethodError: It describes none.
    """
    fields = {"name": method} if isinstance(method, str) else method
    if not fields or not isinstance(fields, dict) or not fields.get("name", DEFAULT_METHOD):
        raise MethodError(
            f"--config {path}: method is {method!r}; expected a name, or a mapping of its name and "
            f"fields. Without such a line it is {DEFAULT_METHOD}"
        )
    return fields


def check_names(names: Iterable[str], types: Collection[str], place: str) -> None:
    """Refuse an option that does not exist, and suggest similar ones.

    Raises:
        UsageError: There is one.
    """
    for name in names:
        if name not in types and not name.startswith("trainer."):
            raise UsageError(f"{place}there is no option {name}{did_you_mean(name, types)}")


def check_nulls(config: Mapping[str, Any], types: Mapping[str, Any], place: str) -> None:
    """Refuse an option without a value where it needs one.

    Raises:
        UsageError: There is one.
    """
    for name, value in config.items():
        hint = types.get(name, Any)
        if value is None and hint is not Any and type(None) not in typing.get_args(hint):
            raise UsageError(
                f"{place}{name} has no value; expected {_readable(hint)}. Give one, or leave the "
                "line out"
            )


def as_arguments(config: dict[str, Any]) -> list[str]:
    """A file's options as a command line."""
    return [
        f"--{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in config.items()
    ]


def with_values(arguments: Sequence[str], types: dict[str, Any]) -> list[str]:
    """`--bf16` alone as `--bf16=true`."""
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


def one_line(message: str, types: dict[str, Any]) -> str:
    """Rewrite a message of the parser as one line in the user's terms."""
    if required := re.match(r"the following arguments are required: (.+)", message):
        return f"give --{required[1].replace(', ', ' and --')}"
    if valueless := re.match(r"argument --([\w.]+).*: expected one argument", message):
        return f"--{valueless[1]}: expected a value after it"
    if unknown := re.match(r"unrecognized arguments: (?:--)?([^\s=]+)", message):
        check_names([unknown[1]], types, "")
    key = re.match(r'Parser key "([^"]+)"', message)
    given = re.findall(r"(?:Got|Given) value: (.+)", message)
    if key is None or not given:
        return message
    return f"{key[1]} = {given[-1]}: expected {_readable(types.get(key[1]))}"


def _readable(hint: Any) -> str:
    """A type as a user would write it: `float or None`, `'norm' or 'squared'`."""
    choices = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(map(repr, choices))
    if choices and typing.get_origin(hint) not in (list, tuple, dict):
        return " or ".join(map(_readable, choices))
    if hint is type(None):
        return "null"
    return getattr(hint, "__name__", str(hint)) if not choices else str(hint)
