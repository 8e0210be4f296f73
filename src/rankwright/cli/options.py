"""Options of `rankwright train`: from a YAML file, and from the command line, which wins."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import typing
from argparse import ArgumentError, HelpFormatter
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import yaml
from jsonargparse import ArgumentParser
from transformers import TrainingArguments

from rankwright.cli.plugs import Plug, described, flattened, full_name, names_in, plugs_of
from rankwright.core import catalogue
from rankwright.core.catalogue import SLOTS
from rankwright.core.errors import MethodError, did_you_mean
from rankwright.core.method import Method
from rankwright.core.registry import available, get
from rankwright.core.yamls import NumberLoader
from rankwright.job import TrainConfig
from rankwright.job.folder import DESCRIPTION, with_paths_found
from rankwright.job.paths import expanded

DEFAULT_METHOD = "bidora"
_SWITCHES = {
    f"trainer.{name}": bool
    for name, field in TrainingArguments.__dataclass_fields__.items()
    if bool in (field.type, *typing.get_args(field.type))
}
NAMED = ("method", *SLOTS)
"""Options that name what other options belong to."""

_USAGE = (
    "rankwright train --method NAME --model MODEL (--task TASK | --data FILE) [options]\n"
    "       rankwright train --config RUN.yaml [options that win over the file]\n"
    "       rankwright train --config RUN/run.yaml --resume"
)


class UsageError(ValueError):
    """The command line, or the file behind --config, does not parse."""


class Parser(ArgumentParser):
    """Shows `--method.name` and `--batch_size` as what a user types."""

    def format_help(self, formatter: HelpFormatter | None = None) -> str:
        """The help, its flags as they are in the guides."""
        text = super().format_help(formatter)
        for name in NAMED:
            text = text.replace(f"--{name}.name NAME", f"--{name} NAME     ")
        return re.sub(r"--[a-z]+(_[a-z]+)+(?![\w.])", lambda flag: flag[0].replace("_", "-"), text)


def parse_train(arguments: Sequence[str]) -> tuple[dict[str, Any], bool]:
    """Options of `rankwright train` from a YAML file and the command line, which wins.

    Args:
        arguments: The command line after `train`.

    Returns:
        Fields of `TrainConfig`, with the method's own under "method" and those of plugged parts
        under "parts", and whether to resume.

    Raises:
        UsageError: An option is unknown, missing or of a wrong type.
        MethodError: There is no such method or part, or the file cannot be read.
    """
    arguments = [normalise(argument) for argument in arguments]
    path = peek(arguments, "--config")
    config, _ = read_config(path)
    file = expanded(path or "")
    if file.name == DESCRIPTION:
        config = with_paths_found(config, file.parent)
    plugs = plugs_of({slot: _plugged(slot, arguments, config) for slot in SLOTS})
    arguments = [full_name(argument, plugs) for argument in arguments]
    named = config.get("method.name", DEFAULT_METHOD)
    name = str(peek(arguments, "--method.name") or named)
    if name != named:  # the file's fields belong to another method
        config = {key: value for key, value in config.items() if not key.startswith("method.")}
    types = _types(get(name), plugs)
    check_names(config, types.keys() - {"config", "resume"}, f"{path}: ")
    parser = _parser(name, plugs)
    try:
        parsed = parser.parse_args(as_arguments(config) + with_values(arguments, types | _SWITCHES))
    except ArgumentError as error:
        raise UsageError(one_line(str(error), types)) from error
    values = parsed.as_dict()
    values.pop("config")
    values["parts"] = described({slot: values.pop(slot, None) for slot in SLOTS}, plugs)
    resume = bool(values.pop("resume"))
    if resume and file.name == DESCRIPTION and peek(arguments, "--output") is None:
        values["output"] = str(file.parent)  # the folder may have been moved
    return values, resume


def _plugged(slot: str, arguments: Sequence[str], config: dict[str, Any]) -> list[str]:
    """Names of a slot's parts; leaves in `config` the fields of these parts only."""
    names, options = flattened(slot, config.pop(slot, None))
    given = peek(arguments, f"--{slot}.name")
    if given is not None:
        names = names_in(slot, given)
    keys = {name.rpartition(":")[2] for name in names}
    config |= {name: value for name, value in options.items() if name.split(".")[1] in keys}
    return names


def normalise(argument: str) -> str:
    """`--text-column` as `--text_column`, and `--method` as `--method.name`, so for every slot."""
    if not argument.startswith("--"):
        return argument
    flag, equals, value = argument.partition("=")
    flag = "--" + flag[2:].replace("-", "_")
    return (f"{flag}.name" if flag[2:] in NAMED else flag) + equals + value


def _parser(method: str, plugs: Sequence[Plug]) -> ArgumentParser:
    parser = Parser(
        prog="rankwright train",
        usage=_USAGE,
        description="Fine-tune a model with a method; leaves a folder with a plain PEFT adapter.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", help="YAML file with any of these options")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    parser.add_argument(
        "--method.name",
        default=method,
        help=f"{', '.join(available())}, or package.module:Class; --help shows its options",
    )
    parser.add_class_arguments(TrainConfig, None)
    group = parser.add_argument_group(f"The method, here {method}")
    group.add_class_arguments(get(method), "method", as_group=False, skip={"plugged"})
    group = parser.add_argument_group("Parts plugged onto the method; see `rankwright parts`")
    for slot in SLOTS:
        group.add_argument(f"--{slot}.name", help=", ".join(catalogue.parts(slot)) or "none yet")
    for plug in plugs:
        group.add_class_arguments(plug.cls, plug.prefix, as_group=False, skip=plug.skipped)
    return parser


def _types(method: type[Method], plugs: Sequence[Plug]) -> dict[str, Any]:
    """Type of every option by name."""
    types = {"config": str, "resume": bool, **{f"{name}.name": str for name in NAMED}}
    owners: list[tuple[str, Any, set[str]]] = [
        ("", TrainConfig, set()),
        ("method.", method, {"plugged"}),
        *((f"{plug.prefix}.", plug.cls, plug.skipped) for plug in plugs),
    ]
    for prefix, owner, skipped in owners:
        hints = typing.get_type_hints(owner)
        names = {field.name for field in dataclasses.fields(owner)} - skipped
        types |= {f"{prefix}{name}": hints[name] for name in names}
    return types


def peek(arguments: Sequence[str], flag: str) -> str | None:
    """Value of `flag` before the options are parsed; the last one counts."""
    found = None
    for position, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == flag:
            found = value if equals else next(iter(arguments[position + 1 :]), None)
    return found


def read_config(path: str | None) -> tuple[dict[str, Any], str | None]:
    """The file's options by name, those of the method with `method.` before them; and its text."""
    if path is None:
        return {}, None
    try:
        text = expanded(path).read_text("utf-8")
        values = yaml.load(text, Loader=NumberLoader)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MethodError(f"cannot read --config {path}: {reason}") from error
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise MethodError(f"--config {path} is not YAML: {problem}") from error
    if not isinstance(values, dict):
        raise MethodError(f"--config {path}: expected options as 'name: value' lines")
    method = values.pop("method", None) or {}
    if not isinstance(method, str | dict):
        raise MethodError(
            f"--config {path}: method is {method!r}; expected a name, or a mapping of its fields"
        )
    fields = {"name": method} if isinstance(method, str) else method
    named = values | {f"method.{name}": value for name, value in fields.items()}
    return {str(name).replace("-", "_"): value for name, value in named.items()}, text


def check_names(names: Iterable[str], types: Collection[str], place: str) -> None:
    """Refuse an option that does not exist, with its neighbours."""
    for name in names:
        if name not in types and not name.startswith("trainer."):
            raise UsageError(f"{place}there is no option {name}{did_you_mean(name, types)}")


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
        if _is_switch(types.get(argument[2:])) and argument != "--resume" and after.startswith("--")
        else argument
        for argument, after in itertools.pairwise([*arguments, "--"])
    ]


def _is_switch(hint: Any) -> bool:
    return hint is bool or bool in typing.get_args(hint)


def one_line(message: str, types: dict[str, Any]) -> str:
    """What the parser says over several lines and about its own types."""
    if required := re.match(r"the following arguments are required: (.+)", message):
        return f"give --{required[1].replace(', ', ' and --')}"
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
