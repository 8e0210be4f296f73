"""Check the data of `train` and `compare` before torch is imported.

Importing torch and transformers takes many times longer than reading a file, and most first
attempts fail because of their data.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import yaml

from rankwright.cli.arguments import DEFAULT_METHOD, NAMED, STARTS, as_arguments, set_switches
from rankwright.cli.parsing import (
    Given,
    Parser,
    check_names,
    check_nulls,
    option_types,
    parse_options,
)
from rankwright.job.config import DATA_OPTIONS, TrainConfig
from rankwright.job.paths import run_of
from rankwright.job.rows import RunRows
from rankwright.job.widths import check_rank
from rankwright.tasks.kinds import describe_kinds
from rankwright.tasks.sources import Files


def read_rows_early(command: str, arguments: Sequence[str]) -> RunRows | None:
    """Read and check the rows of a run, from the options of its data.

    Args:
        command: Name of the command; only `train` and `compare` have rows to check.
        arguments: The command line after it.

    Returns:
        The rows of a run; None if there are none yet, as for `--help`, or several runs.

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
    given = Given.read(arguments)
    if command == "compare":
        for task in _tasks_of_study(given):
            if isinstance(task.make_task().source, Files):
                RunRows.read(task)
        return None
    if run_of(given.path) is not None:  # its data was checked when it began
        return None
    run = TrainConfig(**_parse_run(given))
    check_rank(run.model, _rank(given))
    return RunRows.read(run)


def _asks_for_kinds(arguments: Sequence[str]) -> bool:
    """Whether `--kind` is given without a value, as in `--kind --help`."""
    return any(
        argument == "--kind" and after.startswith("-")
        for argument, after in itertools.pairwise([*arguments, "--"])
    )


def _rank(given: Given) -> int:
    """Return the requested rank; 0 without one, and for a method of the user's own."""
    in_file = given.config.get("method.name", DEFAULT_METHOD)
    name = given.peek("--method.name") or in_file
    rank = given.peek("--method.r")
    if rank is None and name == in_file:
        rank = given.config.get("method.r")
    return int(str(rank)) if str(rank).isdecimal() and ":" not in str(name) else 0


def _tasks_of_study(given: Given) -> Iterator[TrainConfig]:
    """Yield the data options of every task of a study; other mistakes are found later."""
    text = given.peek("--task")
    try:
        tasks = given.config.get("task") if text is None else yaml.safe_load(text)
    except yaml.YAMLError:
        return
    every = tasks.split(",") if isinstance(tasks, str) else tasks or [{}]
    if not isinstance(every, list):
        return
    shared = _parse_shared_data(given)
    for task in every:
        options = {"task": task.strip()} if isinstance(task, str) else task
        if isinstance(options, dict) and ("task" in options) != ("data" in {**shared, **options}):
            own = {name: value for name, value in options.items() if name in DATA_OPTIONS}
            yield TrainConfig(model="of the study", **{**shared, **own})


def _parse_run(given: Given) -> dict[str, Any]:
    """Return the fields of `TrainConfig`; options of methods and parts are parsed later."""
    types = option_types(TrainConfig)
    known = {*types, "config", *STARTS, *NAMED, *(f"{name}.name" for name in NAMED)}
    check_names(filter(_is_of_the_run, given.config), known, f"{given.path}: ")
    check_names(filter(_is_of_the_run, _flags(given.arguments)), known, "")
    check_nulls(given.config, types, f"{given.path}: ")
    return _parse(_select(given, types), types)


def _parse_shared_data(given: Given) -> dict[str, Any]:
    """Return the options of the data that all tasks of a study share."""
    every = option_types(TrainConfig)
    types = {name: hint for name, hint in every.items() if name in DATA_OPTIONS[1:]}
    selected = _select(given, types)
    values = _parse(selected, types, skip=every.keys() - types.keys())
    return {name: values[name] for name in {*_flags(selected)}}


def _parse(
    arguments: Sequence[str], types: Mapping[str, Any], skip: Collection[str] = ()
) -> dict[str, Any]:
    parser = Parser()
    parser.add_class_arguments(TrainConfig, None, skip={*skip})
    return parse_options(parser, arguments, types)


def _select(given: Given, types: Mapping[str, Any]) -> list[str]:
    """Return the options of these names, of the file and of the command line."""
    in_file = {name: value for name, value in given.config.items() if name in types}
    return as_arguments(in_file) + set_switches(list(_named(given.arguments, types)), types)


def _named(arguments: Sequence[str], names: Collection[str]) -> Iterable[str]:
    """Yield the options of these names, each with its values."""
    wanted = False
    for argument in arguments:
        if argument.startswith("--"):
            wanted = _name(argument) in names
        if wanted:
            yield argument


def _flags(arguments: Sequence[str]) -> list[str]:
    """Return the names of the options on the command line."""
    return [_name(argument) for argument in arguments if argument.startswith("--")]


def _name(argument: str) -> str:
    return argument[2:].partition("=")[0].removesuffix("+")


def _is_of_the_run(name: str) -> bool:
    """Whether an option belongs to the run, not to a method, a part or the Trainer."""
    return "." not in name
