"""Parse the options of one call: those of its YAML file, overridden by those of its command line.

Nothing here imports torch or transformers, so that data can be checked first.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from argparse import ArgumentError, HelpFormatter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from jsonargparse import ArgumentParser

from rankwright.cli.arguments import (
    NAMED,
    UsageError,
    as_arguments,
    gather_lists,
    normalise,
    peek,
    read_config,
    set_switches,
)
from rankwright.errors import did_you_mean


class Parser(ArgumentParser):
    """A parser whose help shows `--method.name` and `--batch_size` as users type them."""

    def __init__(self, **options: Any) -> None:
        super().__init__(exit_on_error=False, allow_abbrev=False, **options)

    def format_help(self, formatter: HelpFormatter | None = None) -> str:
        """Return the help, with flags spelled as in the guides."""
        text = super().format_help(formatter)
        for name in NAMED:
            text = text.replace(f"--{name}.name NAME", f"--{name} NAME     ")
        return re.sub(r"--[a-z]+(_[a-z]+)+(?![\w.])", lambda flag: flag[0].replace("_", "-"), text)


@dataclass
class Given:
    """The options of one call before they are parsed.

    Attributes:
        arguments: The command line, normalised.
        path: The file that --config names; None without one.
        config: The options in that file by name.
        text: The text of the file.
    """

    arguments: list[str]
    path: str | None
    config: dict[str, Any]
    text: str | None

    @classmethod
    def read(cls, arguments: Sequence[str]) -> Self:
        """Normalise a command line, and read the file that its --config names.

        Raises:
            UsageError: A list of names does not parse.
            MethodError: The file cannot be read.
        """
        normal = gather_lists([normalise(argument) for argument in arguments])
        path = peek(normal, "--config")
        return cls(normal, path, *read_config(path))

    def peek(self, flag: str) -> str | None:
        """Return the value of `flag` on the command line; the last one counts."""
        return peek(self.arguments, flag)

    def check(self, types: Mapping[str, Any], not_in_file: Collection[str] = ()) -> None:
        """Refuse unknown options in the file, and options without a value that need one.

        Args:
            types: Type of every option by name.
            not_in_file: Options of the command line alone.

        Raises:
            UsageError: There is such an option.
        """
        check_names(self.config, types.keys() - {*not_in_file}, f"{self.path}: ")
        check_nulls(self.config, types, f"{self.path}: ")

    def as_arguments(self, types: Mapping[str, Any]) -> list[str]:
        """Return the options of the file and of the command line as one command line."""
        return as_arguments(self.config) + set_switches(self.arguments, types)


def parse_options(
    parser: Parser, arguments: Sequence[str], types: Mapping[str, Any]
) -> dict[str, Any]:
    """Parse a command line to values by name.

    Args:
        parser: The parser.
        arguments: The command line.
        types: Type of every option by name, for messages.

    Raises:
        UsageError: An option is unknown, missing or of a wrong type.
    """
    try:
        return dict(parser.parse_args(arguments).as_dict())
    except ArgumentError as error:
        raise UsageError(one_line(str(error), types)) from error


def option_types(owner: type[Any]) -> dict[str, Any]:
    """Return the type of every field of a dataclass by name."""
    hints = typing.get_type_hints(owner)
    return {field.name: hints[field.name] for field in dataclasses.fields(owner)}


def check_names(names: Iterable[str], known: Collection[str], place: str) -> None:
    """Refuse an option that does not exist, and suggest similar ones.

    Args:
        names: Names of the options that are given.
        known: Names of the options that exist.
        place: The start of the message.

    Raises:
        UsageError: There is one.
    """
    for name in names:
        if name not in known and not name.startswith("trainer."):
            raise UsageError(f"{place}there is no option {name}{did_you_mean(name, known)}")


def check_nulls(config: Mapping[str, Any], types: Mapping[str, Any], place: str) -> None:
    """Refuse an option without a value where it needs one.

    Args:
        config: The options of a file.
        types: Type of every option by name.
        place: The start of the message.

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


def one_line(message: str, types: Mapping[str, Any]) -> str:
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
    """Return a type as a user would write it: `float or None`, `'norm' or 'squared'`."""
    choices = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(map(repr, choices))
    if choices and typing.get_origin(hint) not in (list, tuple, dict):
        return " or ".join(map(_readable, choices))
    if hint is type(None):
        return "null"
    return getattr(hint, "__name__", str(hint)) if not choices else str(hint)
