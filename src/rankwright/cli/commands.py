"""The commands, from their arguments to an exit status."""

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
    """Run one command; see `ending` for what becomes of errors.

    Args:
        command: Its name.
        arguments: The command line after it.
        rows: The rows of a run, if they have been read.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # for --method my_module:MyMethod
    try:
        with quiet():
            normal = list(map(_hyphens, arguments))
            return _train(normal, rows) if command == "train" else _COMMANDS[command](normal)
    except (ExportError, SafetensorError) as error:
        say(f"rankwright {command}: {error}")
        return 1


def _hyphens(argument: str) -> str:
    """`--batch_size` as `--batch-size`; text after a dot or an equals sign stays as it is."""
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
            say(f"stopped; a checkpoint is saved. Go on with: {folder.resume}")
        return SIGNALLED + (signal.SIGINT if interrupts else signal.SIGTERM)
    if main_process:
        Console().print(result_table(result))
        print(f"adapter: {folder.adapter}")
    return 0


def _compare(arguments: list[str]) -> int:
    return run_study(arguments, say)


def _eval(arguments: list[str]) -> int:
    parser = ArgumentParser(
        prog="rankwright eval", description="Metrics of a finished run, as JSON."
    )
    parser.add_argument("run", metavar="RUN", help="folder of the run")
    _add_edited(parser)
    parser.add_argument(
        "--split",
        choices=("train", "validation", "test"),
        default="validation",
        help="which rows (default: validation)",
    )
    parser.add_argument("--rows", type=int, help="only so many rows, drawn as by --eval-rows")
    parser.add_argument(
        "--batch-size", type=int, default=64, help="rows of one batch (default: 64)"
    )
    parser.add_argument("--output", metavar="FILE", help="write the metrics to this file, too")
    return evaluate(**vars(parser.parse_args(arguments)), notify=say)


def _export(arguments: list[str]) -> int:
    parser = ArgumentParser(
        prog="rankwright export",
        description="A finished run in another form. What is written is loaded again and compared "
        "with the run's model before success is reported.",
    )
    parser.add_argument("run", metavar="RUN", help="folder of the run")
    _add_edited(parser)
    parser.add_argument(
        "--as",
        dest="kind",
        choices=FORM_NAMES,
        required=True,
        help="the adapter as trained, a plain LoRA, or the whole model with the adapter merged in",
    )
    parser.add_argument(
        "--rank",
        type=int,
        help="rank of the plain LoRA; without it the result is exact, where there is an exact one",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="SHARE",
        help="largest difference of a logit that passes the comparison, as a share of the largest "
        "logit (default: by the dtype of the base)",
    )
    parser.add_argument("--output", metavar="DIR", help="folder to write (default: RUN/AS-export)")
    parser.add_argument("--overwrite", action="store_true", help="replace what is in the folder")
    return export_run(**vars(parser.parse_args(arguments)))


def _plot(arguments: list[str]) -> int:
    parser = ArgumentParser(
        prog="rankwright plot",
        description="What was logged while a run trained, a panel for each quantity over the "
        "optimizer steps: the loss and the metrics on training and validation rows, and what the "
        "method measures, such as sparsity or mean_rank. Also of a run that is not finished, up to "
        "its newest checkpoint.",
    )
    parser.add_argument("run", metavar="RUN", help="folder of the run")
    _add_edited(parser)
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="these quantities only (default: all)"
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
        description="The figures of a study, computed anew from its result files: one HTML file "
        "that needs no network, a Markdown summary, or the model card of an adapter.",
    )
    parser.add_argument("folder", metavar="DIR", help="folder of the study")
    parser.add_argument(
        "--format",
        choices=("html", "markdown", "model-card", "peft", "packed"),
        help="what to write (default: html and markdown); peft: a JSON file for every run, in the "
        "layout of PEFT's own method comparison; packed: the study with its records in one table, "
        "to keep or to publish",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="where to (default: DIR/report.html, DIR/report.md, README.md beside the adapter, "
        "DIR/peft, DIR/packed)",
    )
    parser.add_argument(
        "--baseline",
        metavar="METHOD",
        help="compare every method with this one (default: what the study says)",
    )
    _add_edited(parser)
    card = parser.add_argument_group("of the model card")
    card.add_argument("--task", help="the task; needed where the study has several")
    card.add_argument("--method", help="the method (default: the one with the best mean)")
    card.add_argument("--seed", type=int, help="the seed (default: the first)")
    return report(**vars(parser.parse_args(arguments)))


def _add_edited(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--edited",
        action="store_true",
        help="read on where a file is not what the run wrote: it was changed on purpose",
    )


def _methods(arguments: list[str]) -> int:
    parser = ArgumentParser(
        prog="rankwright methods",
        description="What each method does, the slots it fills, what it leaves and what it costs.",
    )
    parser.add_argument("show", nargs="?", choices=("show",), help="show one method in full")
    parser.add_argument("name", nargs="?", metavar="NAME", help="its name, or package.module:Class")
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
        description="What can be plugged onto a method, by slot: `rankwright train --method lora "
        "--init olora --procedure flat`.",
    )
    parser.add_argument(
        "what",
        nargs="?",
        choices=("show", "probe"),
        help="show one part in full; or try every part on every method, and say what works",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="of the part to show")
    parser.add_argument("--output", metavar="FILE", help="write what was found to this file")
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
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random")
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
