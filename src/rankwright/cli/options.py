"""Options of `rankwright train`: from a YAML file, and from the command line, which wins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace

from rankwright.core.errors import MethodError
from rankwright.core.registry import available, get
from rankwright.job import TrainConfig

DEFAULT_METHOD = "bidora"


def parse_train(arguments: Sequence[str]) -> tuple[dict[str, Any], bool]:
    """Options of `rankwright train` from a YAML file and the command line, which wins.

    Args:
        arguments: The command line after `train`.

    Returns:
        Fields of `TrainConfig` with the method's own under "method", and whether to resume.
    """
    arguments = [normalise(argument) for argument in arguments]
    name = _peek(arguments, "--method.name")
    config_path = _peek(arguments, "--config")
    file_values = _read_config(config_path) if config_path else {}
    name = name or file_values.get("method", {}).get("name") or DEFAULT_METHOD
    parser = ArgumentParser(prog="rankwright train", exit_on_error=True)
    parser.add_argument("--config", help="YAML file with any of these options")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    parser.add_argument("--method.name", default=name, help=f"one of {', '.join(available())}")
    parser.add_class_arguments(TrainConfig, None)
    parser.add_class_arguments(get(name), "method")
    if file_values.get("method", {}).get("name", name) != name:
        file_values["method"] = {"name": name}  # its fields belong to another method
    if file_values:
        parser.set_defaults(_flat(file_values, parser))
    parsed: Namespace = parser.parse_args(arguments)
    values = parsed.as_dict()
    values.pop("config")
    return values, bool(values.pop("resume"))


def normalise(argument: str) -> str:
    """`--text-column` as `--text_column`, and `--method` as `--method.name`."""
    if not argument.startswith("--"):
        return argument
    flag, equals, value = argument.partition("=")
    flag = "--" + flag[2:].replace("-", "_")
    return ("--method.name" if flag == "--method" else flag) + equals + value


def _peek(arguments: Sequence[str], flag: str) -> str | None:
    """Value of `flag` before the options are parsed; the last one counts."""
    found = None
    for position, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == flag:
            found = value if equals else next(iter(arguments[position + 1 :]), None)
    return found


def _read_config(path: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(Path(path).read_text("utf-8"))
    except OSError as error:
        raise MethodError(f"cannot read --config {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise MethodError(f"--config {path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise MethodError(f"--config {path}: expected options as 'name: value' lines")
    if isinstance(values.get("method"), str):
        values["method"] = {"name": values["method"]}
    return values


def _flat(values: dict[str, Any], parser: ArgumentParser) -> dict[str, Any]:
    """Defaults by option name; an option that does not exist is an error with its neighbours."""
    method = {f"method.{key}": value for key, value in values.get("method", {}).items()}
    flat = {key: value for key, value in values.items() if key != "method"} | method
    known = set(parser.get_defaults().keys())
    for name in flat:
        if name not in known:
            raise MethodError(f"the configuration file has an unknown option {name!r}")
    return flat
