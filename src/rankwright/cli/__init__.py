"""The command line: train, eval, export, methods, demo.

Every option of `rankwright train` is a field of `TrainConfig` or, behind `--method.`, of the chosen
method; a YAML file with the same names can hold all of them, and the command line overrides it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from jsonargparse import ArgumentParser
from rich.console import Console

import rankwright.methods  # noqa: F401  registers every method
from rankwright.cli.demo import demo
from rankwright.cli.finished import evaluate, export_run
from rankwright.cli.options import normalise, parse_train
from rankwright.cli.tables import methods_table, result_table, show_method
from rankwright.core.errors import MethodError, TrainingError
from rankwright.core.registry import get
from rankwright.job import TrainConfig, train
from rankwright.tasks import TaskError
from rankwright.training.export_check import ExportError
from rankwright.training.progress import RichProgress

SIGTERM_EXIT = 143  # 128 + SIGTERM, as shells report it
USAGE = """\
usage: rankwright COMMAND [options]

  train     fine-tune a model with a method; leaves a folder with a plain PEFT adapter
  eval      metrics of a finished run
  export    a finished run as PEFT adapter, as plain LoRA of a stated rank, or merged
  methods   what there is; `methods show NAME` for fields, equations and reference
  demo      fine-tune a small model offline, load the adapter with peft alone, compare

rankwright COMMAND --help has the options of a command; after `train --method NAME` those of the
method are among them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands: dict[str, Callable[[list[str]], int]] = {
        "train": _train,
        "eval": _eval,
        "export": _export,
        "methods": _methods,
        "demo": _demo,
    }
    command = arguments[0] if arguments else "--help"
    if command in ("-h", "--help"):
        print(USAGE)
        return 0
    if command not in commands:
        print(f"rankwright: unknown command {command!r}\n\n{USAGE}", file=sys.stderr)
        return 2
    try:
        return commands[command](arguments[1:])
    except (MethodError, TaskError, TrainingError, ExportError) as error:
        print(f"rankwright {command}: {error}", file=sys.stderr)
        return 1


def _train(arguments: list[str]) -> int:
    values, resume = parse_train(arguments)
    fields = dict(values.pop("method"))
    method = get(fields.pop("name"))(**fields)
    console = Console(stderr=True)
    folder, result = train(
        TrainConfig(**values),
        method,
        resume=resume,
        callback=lambda trainer: RichProgress(trainer.run, console),
    )
    if result.interrupted:
        console.print(
            "stopped by SIGTERM; a checkpoint is saved. Go on with: "
            f"rankwright train --config {folder.path / 'run.yaml'} --resume"
        )
        return SIGTERM_EXIT
    Console().print(result_table(result))
    print(f"adapter: {folder.adapter}")
    return 0


def _eval(arguments: list[str]) -> int:
    return _call(evaluate, "eval", arguments)


def _export(arguments: list[str]) -> int:
    # "as" is a Python keyword, so the option has another name inside
    return _call(
        export_run,
        "export",
        ["--kind" + a[len("--as") :] if a.partition("=")[0] == "--as" else a for a in arguments],
    )


def _methods(arguments: list[str]) -> int:
    if not arguments:
        Console().print(methods_table())
        return 0
    if arguments[0] == "show" and len(arguments) == 2:
        show_method(arguments[1])
        return 0
    print("usage: rankwright methods [show NAME]", file=sys.stderr)
    return 0 if arguments[0] in ("-h", "--help") else 2


def _demo(arguments: list[str]) -> int:
    return _call(demo, "demo", arguments)


def _call(function: Callable[..., int], command: str, arguments: list[str]) -> int:
    """Call a function with options parsed after its signature."""
    parser = ArgumentParser(prog=f"rankwright {command}")
    parser.add_function_arguments(function, as_positional=True)
    parsed = parser.parse_args([normalise(argument) for argument in arguments])
    return function(**parsed.as_dict())
