"""Parse the options of `rankwright train`."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from typing import Any

from transformers import TrainingArguments

from rankwright.cli.arguments import DEFAULT_METHOD, NAMED, STARTS, UsageError
from rankwright.cli.parsing import Given, Parser, option_types, parse_options
from rankwright.cli.plugs import (
    Plug,
    describe_parts,
    find_plugs,
    full_name,
    read_slot,
    split_names,
)
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
    "       rankwright train --config RUN.yaml [options that override the file]\n"
    "       rankwright train --config RUN/run.yaml --resume"
)


def parse_train(arguments: Sequence[str]) -> tuple[dict[str, Any], dict[str, bool]]:
    """Parse the options of `rankwright train`; the command line overrides the YAML file.

    Args:
        arguments: The command line after `train`.

    Returns:
        The fields of `TrainConfig`, with the method's own under "method" and those of plugged parts
        under "parts"; and whether to `resume` and to `overwrite`.

    Raises:
        UsageError: An option is unknown, missing or of a wrong type.
        MethodError: There is no such method or part, or the file cannot be read.
    """
    given = Given.read(arguments)
    run = run_of(given.path)
    if run is not None:
        given.config = find_moved_paths(given.config, run)
    plugs = find_plugs({slot: _plugged_names(slot, given) for slot in SLOTS})
    given.arguments = [full_name(argument, plugs) for argument in given.arguments]
    method = _method_name(given)
    types = _types(get_method(method), plugs)
    given.check(types, not_in_file={"config", *STARTS})
    values = parse_options(_parser(method, plugs), given.as_arguments(types | _SWITCHES), types)
    values.pop("config")
    values["parts"] = describe_parts({slot: values.pop(slot, None) for slot in SLOTS}, plugs)
    start = {name: bool(values.pop(name)) for name in STARTS}
    if all(start.values()):
        raise UsageError("give one of --resume and --overwrite: a run is continued or replaced")
    if start["resume"] and run is not None and given.peek("--output") is None:
        values["output"] = str(run)  # the folder may have been moved
    return values, start


def _plugged_names(slot: str, given: Given) -> list[str]:
    """Return the names of a slot's parts; leave the fields of these parts alone in the config."""
    names, options = read_slot(slot, given.config.pop(slot, None))
    text = given.peek(f"--{slot}.name")
    if text is not None:
        names = split_names(slot, text)
    keys = {name.rpartition(":")[2] for name in names}
    given.config |= {name: value for name, value in options.items() if name.split(".")[1] in keys}
    return names


def _method_name(given: Given) -> str:
    """Return the name of the method; drop the fields that the file has for another one."""
    in_file = given.config.get("method.name", DEFAULT_METHOD)
    name = str(given.peek("--method.name") or in_file)
    if name != in_file:
        given.config = {
            key: value for key, value in given.config.items() if not key.startswith("method.")
        }
    return name


def _parser(method: str, plugs: Sequence[Plug]) -> Parser:
    parser = Parser(
        prog="rankwright train",
        usage=_USAGE,
        description="Fine-tune a model with a method, into a folder with a plain PEFT adapter.",
    )
    parser.add_argument("--config", help="YAML file with any of these options")
    parser.add_argument("--resume", action="store_true", help="continue from the newest checkpoint")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the run in the folder, which is kept until this one is finished",
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
    """Return the type of every option by name."""
    types: dict[str, Any] = {
        "config": str,
        **dict.fromkeys(STARTS, bool),
        **{f"{name}.name": str for name in NAMED},
        **option_types(TrainConfig),
    }
    owners: list[tuple[str, Any, set[str]]] = [
        ("method", method, {"plugged"}),
        *((plug.prefix, plug.cls, plug.skipped) for plug in plugs),
    ]
    for prefix, owner, skipped in owners:
        fields = option_types(owner).items()
        types |= {f"{prefix}.{name}": hint for name, hint in fields if name not in skipped}
    return types
