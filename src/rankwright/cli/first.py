"""Check the data of `train` and `compare` before torch is imported.

Importing torch and transformers takes many times longer than reading a file, and most first
attempts fail because of their data.
"""

from __future__ import annotations

import dataclasses
import itertools
import typing
from argparse import ArgumentError
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import yaml

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
from rankwright.job.config import DATA_OPTIONS, TrainConfig
from rankwright.job.paths import run_of
from rankwright.job.rows import RunRows
from rankwright.job.widths import check_rank
from rankwright.tasks.kinds import describe_kinds
from rankwright.tasks.sources import Files


def rows_first(command: str, arguments: Sequence[str]) -> RunRows | None:
    """Read and check the rows of a run, from the options of its data.

    Args:
        command: `train` and `compare` have rows to check.
        arguments: The command line after it.

    Returns:
        The rows of a run; None where there are none yet, as for `--help`, or several runs.

    Raises:
        UsageError: An option of the run is unknown, missing or of a wrong type.
        MethodError: A value is out of its range, or the file of options cannot be read.
        TaskError: The data is not what the options declare.
    """
    if command not in ("train", "compare"):
        return None
    if _asks_for_kinds(arguments):
        print(describe_kinds())
        raise SystemExit(0)
    if {"-h", "--help"} & {*arguments}:
        return None
    arguments = gathered([normalise(argument) for argument in arguments])
    path = peek(arguments, "--config")
    if command == "compare":
        for task in _of_tasks(read_config(path)[0], arguments):
            if isinstance(task.make_task().source, Files):
                RunRows.read(task)
        return None
    if run_of(path) is not None:  # its data was checked when it began
        return None
    config, _ = read_config(path)
    run = TrainConfig(**_parsed(config, arguments, path))
    check_rank(run.model, _rank(config, arguments))
    return RunRows.read(run)


def _rank(config: Mapping[str, Any], arguments: Sequence[str]) -> int:
    """The requested rank; 0 without one, and for a method of the user's own."""
    in_file = config.get("method.name", DEFAULT_METHOD)
    name = peek(arguments, "--method.name") or in_file
    rank = peek(arguments, "--method.r")
    if rank is None and name == in_file:
        rank = config.get("method.r")
    return int(str(rank)) if str(rank).isdecimal() and ":" not in str(name) else 0


def _of_tasks(config: dict[str, Any], arguments: Sequence[str]) -> Iterator[TrainConfig]:
    """The data options of every task of a study; other mistakes are found later."""
    given = peek(arguments, "--task")
    try:
        tasks = config.get("task") if given is None else yaml.safe_load(given)
    except yaml.YAMLError:
        return
    every = tasks.split(",") if isinstance(tasks, str) else tasks or [{}]
    if not isinstance(every, list):
        return
    shared = _parsed_data(config, arguments)
    for task in every:
        options = {"task": task.strip()} if isinstance(task, str) else task
        if isinstance(options, dict) and ("task" in options) != ("data" in {**shared, **options}):
            own = {name: value for name, value in options.items() if name in DATA_OPTIONS}
            yield TrainConfig(model="of the study", **{**shared, **own})


def _parsed_data(config: dict[str, Any], arguments: Sequence[str]) -> dict[str, Any]:
    """The options of the data that all tasks of a study share."""
    types = {name: hint for name, hint in _types().items() if name in DATA_OPTIONS[1:]}
    given = as_arguments({name: value for name, value in config.items() if name in types})
    given += with_values(list(_of_these(arguments, types)), types)
    values = _parse(given, types, {*_types()} - {*types})
    return {name: values[name] for name in {*_flags(given)}}


def _asks_for_kinds(arguments: Sequence[str]) -> bool:
    """Whether `--kind` is given without a value, as in `--kind --help`."""
    return any(
        argument == "--kind" and after.startswith("-")
        for argument, after in itertools.pairwise([*arguments, "--"])
    )


def _parsed(config: dict[str, Any], arguments: Sequence[str], path: str | None) -> dict[str, Any]:
    """The fields of `TrainConfig`; options of methods and parts are parsed later."""
    types = _types()
    known = {*types, "config", *STARTS, *NAMED, *(f"{name}.name" for name in NAMED)}
    check_names(filter(_is_of_the_run, config), known, f"{path}: ")
    check_names(filter(_is_of_the_run, _flags(arguments)), known, "")
    check_nulls(config, types, f"{path}: ")
    given = as_arguments({name: value for name, value in config.items() if name in types})
    given += with_values(list(_of_these(arguments, types)), types)
    return _parse(given, types, set())


def _types() -> dict[str, Any]:
    """Type of every option of a run by name."""
    hints = typing.get_type_hints(TrainConfig)
    return {field.name: hints[field.name] for field in dataclasses.fields(TrainConfig)}


def _parse(given: Sequence[str], types: dict[str, Any], skip: set[str]) -> dict[str, Any]:
    parser = Parser(exit_on_error=False, allow_abbrev=False)
    parser.add_class_arguments(TrainConfig, None, skip=skip)
    try:
        return dict(parser.parse_args(given).as_dict())
    except ArgumentError as error:
        raise UsageError(one_line(str(error), types)) from error


def _flags(arguments: Sequence[str]) -> list[str]:
    """Names of the options on the command line."""
    return [_name(argument) for argument in arguments if argument.startswith("--")]


def _name(argument: str) -> str:
    return argument[2:].partition("=")[0].removesuffix("+")


def _is_of_the_run(name: str) -> bool:
    """Whether an option belongs to the run, not to a method, a part or the Trainer."""
    return "." not in name


def _of_these(arguments: Sequence[str], names: Iterable[str]) -> Iterable[str]:
    """The options of these names, each with its values."""
    wanted = False
    for argument in arguments:
        if argument.startswith("--"):
            wanted = _name(argument) in names
        if wanted:
            yield argument
