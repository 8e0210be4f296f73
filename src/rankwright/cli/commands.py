"""The commands: each takes its arguments and returns an exit status."""

from __future__ import annotations

import os
import re
import signal
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from safetensors import SafetensorError

import rankwright.methods  # noqa: F401  registers every method
from rankwright.cli.compare import run_study
from rankwright.cli.demo import demo
from rankwright.cli.ending import SIGNALLED, say
from rankwright.cli.finished import evaluate, export_run
from rankwright.cli.interrupt import interrupt_saves, say_at_once
from rankwright.cli.options import parse_train
from rankwright.cli.plot import plot
from rankwright.cli.probing import probe_parts
from rankwright.cli.quiet import quiet
from rankwright.cli.report import report
from rankwright.cli.tables import (
    methods_table,
    parts_table,
    print_method,
    print_parts,
    result_table,
)
from rankwright.core.export import FORM_NAMES
from rankwright.core.method_registry import get_method
from rankwright.job import TrainConfig, build_method, train
from rankwright.job.rows import RunRows
from rankwright.training.export import ExportError
from rankwright.training.progress import progress_bar


def run(command: str, arguments: list[str], rows: RunRows | None = None) -> int:
    """Run one command and return its exit status; `ending` handles errors.

    Args:
        command: The name of the command.
        arguments: The command line after it.
        rows: The rows of a run, if they have been read.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # for --method my_module:MyMethod
    try:
        with quiet():
            normal = list(map(_with_hyphens, arguments))
            return _train(normal, rows) if command == "train" else _COMMANDS[command](normal)
    except (ExportError, SafetensorError) as error:
        say(f"rankwright {command}: {error}")
        return 1


def _with_hyphens(argument: str) -> str:
    """Return `--batch_size` as `--batch-size`; text after a dot or an equals sign is kept."""
    flag = re.split("[.=]", argument, maxsplit=1)[0]
    return argument.replace("_", "-", flag.count("_")) if flag.startswith("--") else argument


def _train(arguments: list[str], rows: RunRows | None) -> int:
    values, start = parse_train(arguments)
    method = build_method(values.pop("method"), values.pop("parts"))
    main_process = os.environ.get("RANK", "0") == "0"  # torchrun sets it
    notify, at_once = (say, say_at_once) if main_process else (None, None)
    with progress_bar(Console(stderr=True)) as bar, interrupt_saves(at_once) as interrupts:
        folder, result = train(
            TrainConfig(**values), method, **start, callback=bar, notify=notify, rows=rows
        )
    if result.interrupted:
        if main_process:
            say(f"stopped; a checkpoint is saved. Continue with: {folder.resume}")
        return SIGNALLED + (signal.SIGINT if interrupts else signal.SIGTERM)
    if main_process:
        Console().print(result_table(result))
        print(f"adapter: {folder.adapter}")
    return 0


def _compare(arguments: list[str]) -> int:
    return run_study(arguments, say)


def _eval(arguments: list[str]) -> int:
    parser = ArgumentParser(
        prog="rankwright eval", description="Compute the metrics of a finished run, as JSON."
    )
    parser.add_argument("run", metavar="RUN", help="folder of the run")
    _add_edited(parser)
    parser.add_argument(
        "--split",
        choices=("train", "validation", "test"),
        default="validation",
        help="split to evaluate (default: validation)",
    )
    parser.add_argument("--rows", type=int, help="number of rows, drawn as --eval-rows does")
    parser.add_argument("--batch-size", type=int, default=64, help="rows per batch (default: 64)")
    parser.add_argument("--output", metavar="FILE", help="also write the metrics to this file")
    return evaluate(**vars(parser.parse_args(arguments)), notify=say)


def _export(arguments: list[str]) -> int:
    parser = ArgumentParser(
        prog="rankwright export",
        description="Write a finished run in another form. The result is loaded again and compared "
        "with the run's model before success is reported.",
    )
    parser.add_argument("run", metavar="RUN", help="folder of the run")
    _add_edited(parser)
    parser.add_argument(
        "--as",
        dest="kind",
        choices=FORM_NAMES,
        required=True,
        help="the adapter as trained, a plain LoRA, or the full model with the adapter merged in",
    )
    parser.add_argument(
        "--rank",
        type=int,
        help="rank of the plain LoRA; without it the result is exact, if that is possible",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="SHARE",
        help="maximum logit difference that passes the comparison, as a share of the largest logit "
        "(default: by the dtype of the base model)",
    )
    parser.add_argument("--output", metavar="DIR", help="folder to write (default: RUN/AS-export)")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the content of the folder"
    )
    return export_run(**vars(parser.parse_args(arguments)))


def _plot(arguments: list[str]) -> int:
    parser = ArgumentParser(
        prog="rankwright plot",
        description="Plot the log of a run, one panel per quantity over the optimizer steps: the "
        "loss and the metrics on training and validation rows, and measurements of the method such "
        "as sparsity or mean_rank. An unfinished run is plotted up to its newest checkpoint.",
    )
    parser.add_argument("run", metavar="RUN", help="folder of the run")
    _add_edited(parser)
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="quantities to plot (default: all)"
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="image to write, .png, .svg or .pdf (default: RUN/plot.png)",
    )
    return plot(**vars(parser.parse_args(arguments)))


def _report(arguments: list[str]) -> int:
    parser = ArgumentParser(
        prog="rankwright report",
        description="Compute the results of a study from its records, and write them as one HTML "
        "file that needs no network, a Markdown summary, or the model card of an adapter.",
    )
    parser.add_argument("folder", metavar="DIR", help="folder of the study")
    parser.add_argument(
        "--format",
        choices=("html", "markdown", "model-card", "peft", "packed"),
        help="format to write (default: html and markdown); peft: a JSON file per run, in the "
        "layout of PEFT's own method comparison; packed: the study with its records in one table, "
        "for archiving or publication",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="file to write (default: DIR/report.html, DIR/report.md, README.md of the adapter, "
        "DIR/peft, DIR/packed)",
    )
    parser.add_argument(
        "--baseline",
        metavar="METHOD",
        help="method that every other one is compared with (default: that of the study)",
    )
    _add_edited(parser)
    card = parser.add_argument_group("options of the model card")
    card.add_argument("--task", help="the task; required if the study has several")
    card.add_argument("--method", help="the method (default: the one with the best mean)")
    card.add_argument("--seed", type=int, help="the seed (default: the first)")
    return report(**vars(parser.parse_args(arguments)))


def _add_edited(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--edited",
        action="store_true",
        help="accept files that were edited on purpose after the run wrote them",
    )


def _methods(arguments: list[str]) -> int:
    parser = ArgumentParser(
        prog="rankwright methods",
        description="List the methods: summary, slots, artefact and cost of each.",
    )
    parser.add_argument("show", nargs="?", choices=("show",), help="print one method in full")
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="name of the method, or package.module:Class"
    )
    parsed = parser.parse_args(arguments)
    if parsed.show is None:
        Console().print(methods_table())
    elif parsed.name is None:
        parser.error("show: give the name of a method")
    else:
        print_method(get_method(parsed.name))
    return 0


def _parts(arguments: list[str]) -> int:
    parser = ArgumentParser(
        prog="rankwright parts",
        description="List the parts that can be plugged onto a method, by slot, as in `rankwright "
        "train --method lora --init olora --procedure flat`.",
    )
    parser.add_argument(
        "what",
        nargs="?",
        choices=("show", "probe"),
        help="print one part in full; or try every part on every method, and print what works",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="name of the part to print")
    parser.add_argument(
        "--output", metavar="FILE", help="file for the results of probe (default: print them)"
    )
    parsed = parser.parse_args(arguments)
    if parsed.what is None:
        Console().print(parts_table())
    elif parsed.what == "probe":
        probe_parts(parsed.output)
    elif parsed.name is None:
        parser.error("show: give the name of a part")
    else:
        print_parts(parsed.name)
    return 0


def _demo(arguments: list[str]) -> int:
    parser = ArgumentParser(
        prog="rankwright demo",
        description="Fine-tune all-MiniLM-L6-v2 with BiDoRA offline, then load the adapter in a "
        "process that has peft only and compare the metric.",
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        default="runs/demo",
        help="folder of the run; an earlier demo in it is replaced (default: runs/demo)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of all random numbers")
    return demo(**vars(parser.parse_args(arguments)))


_COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "compare": _compare,
    "eval": _eval,
    "export": _export,
    "plot": _plot,
    "report": _report,
    "methods": _methods,
    "parts": _parts,
    "demo": _demo,
}
