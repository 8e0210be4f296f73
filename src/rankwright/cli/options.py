"""Options of `rankwright train`: from a YAML file, and from the command line, which wins."""

from __future__ import annotations

import dataclasses
import typing
from argparse import ArgumentError
from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentParser
from transformers import TrainingArguments

from rankwright.cli.arguments import (
    DEFAULT_METHOD,
    NAMED,
    STARTS,
    Parser,
    UsageError,
    as_arguments,
    check_names,
    check_nulls,
    gathered,
    normalise,
    one_line,
    peek,
    read_config,
    with_values,
)
from rankwright.cli.plugs import Plug, described, flattened, full_name, names_in, plugs_of
from rankwright.core.method import Method
from rankwright.core.method_registry import available_methods, get_method
from rankwright.core.part_registry import SLOTS, available_parts
from rankwright.job import TrainConfig
from rankwright.job.folder import find_moved_paths
from rankwright.job.paths import run_of

_SWITCHES = {
    f"trainer.{name}": bool
    for name, field in TrainingArguments.__dataclass_fields__.items()
    if bool in (field.type, *typing.get_args(field.type))
}
_USAGE = (
    "rankwright train --method NAME --model MODEL (--task TASK | --data FILE) [options]\n"
    "       rankwright train --config RUN.yaml [options that win over the file]\n"
    "       rankwright train --config RUN/run.yaml --resume"
)


def parse_train(arguments: Sequence[str]) -> tuple[dict[str, Any], dict[str, bool]]:
    """Options of `rankwright train` from a YAML file and the command line, which wins.

    Args:
        arguments: The command line after `train`.

    Returns:
        Fields of `TrainConfig`, with the method's own under "method" and those of plugged parts
        under "parts"; and whether to `resume` and to `overwrite`.

    Raises:
        UsageError: An option is unknown, missing or of a wrong type.
        MethodError: There is no such method or part, or the file cannot be read.
    """
    arguments = gathered([normalise(argument) for argument in arguments])
    path = peek(arguments, "--config")
    config, _ = read_config(path)
    run = run_of(path)
    if run is not None:
        config = find_moved_paths(config, run)
    plugs = plugs_of({slot: _plugged(slot, arguments, config) for slot in SLOTS})
    arguments = [full_name(argument, plugs) for argument in arguments]
    named = config.get("method.name", DEFAULT_METHOD)
    name = str(peek(arguments, "--method.name") or named)
    if name != named:  # the file's fields belong to another method
        config = {key: value for key, value in config.items() if not key.startswith("method.")}
    types = _types(get_method(name), plugs)
    check_names(config, types.keys() - {"config", *STARTS}, f"{path}: ")
    check_nulls(config, types, f"{path}: ")
    parser = _parser(name, plugs)
    try:
        parsed = parser.parse_args(as_arguments(config) + with_values(arguments, types | _SWITCHES))
    except ArgumentError as error:
        raise UsageError(one_line(str(error), types)) from error
    values = parsed.as_dict()
    values.pop("config")
    values["parts"] = described({slot: values.pop(slot, None) for slot in SLOTS}, plugs)
    start = {name: bool(values.pop(name)) for name in STARTS}
    if all(start.values()):
        raise UsageError("give one of --resume and --overwrite: a run is continued or replaced")
    if start["resume"] and run is not None and peek(arguments, "--output") is None:
        values["output"] = str(run)  # the folder may have been moved
    return values, start


def _plugged(slot: str, arguments: Sequence[str], config: dict[str, Any]) -> list[str]:
    """Names of a slot's parts; leaves in `config` the fields of these parts only."""
    names, options = flattened(slot, config.pop(slot, None))
    given = peek(arguments, f"--{slot}.name")
    if given is not None:
        names = names_in(slot, given)
    keys = {name.rpartition(":")[2] for name in names}
    config |= {name: value for name, value in options.items() if name.split(".")[1] in keys}
    return names


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
        "--overwrite",
        action="store_true",
        help="replace the run that is in the folder; it is kept until this one is finished",
    )
    parser.add_argument(
        "--method.name",
        default=method,
        help=f"{', '.join(available_methods())}, or package.module:Class; --help shows its options",
    )
    parser.add_class_arguments(TrainConfig, None)
    group = parser.add_argument_group(f"The method, here {method}")
    group.add_class_arguments(get_method(method), "method", as_group=False, skip={"plugged"})
    group = parser.add_argument_group("Parts plugged onto the method; see `rankwright parts`")
    for slot in SLOTS:
        group.add_argument(f"--{slot}.name", help=", ".join(available_parts(slot)) or "none yet")
    for plug in plugs:
        group.add_class_arguments(plug.cls, plug.prefix, as_group=False, skip=plug.skipped)
    return parser


def _types(method: type[Method], plugs: Sequence[Plug]) -> dict[str, Any]:
    """Type of every option by name."""
    types = {
        "config": str,
        **dict.fromkeys(STARTS, bool),
        **{f"{name}.name": str for name in NAMED},
    }
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
