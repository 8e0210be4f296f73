"""`rankwright compare`: parse its options, carry the study out, print the verdicts."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import signal
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

from rich.console import Console

from rankwright.cli.arguments import UsageError
from rankwright.cli.live import StudyTable
from rankwright.cli.parsing import Given, Parser, option_types, parse_options
from rankwright.cli.plan_table import plan_table
from rankwright.core.part_fields import meanings
from rankwright.job import TrainConfig
from rankwright.study.errors import StoppedError
from rankwright.study.execution.compare import compare, dry_run
from rankwright.study.execution.processes import Processes
from rankwright.study.planning.config import StudyConfig
from rankwright.study.planning.specs import DECIDED_BY_STUDY
from rankwright.study.records.folder import StudyFolder
from rankwright.study.report import words, write_html, write_markdown
from rankwright.study.report.results import compute_results
from rankwright.study.tuning.storage import hide_password
from rankwright.training.signals import handle_signals

USAGE = (
    "rankwright compare --methods NAMES --task TASK [--seeds N] [--budget N-passes] [options]\n"
    "       rankwright compare --config STUDY.yaml [options that win over the file]"
)
NO_OPTIONS = {"options", "file"}
OWN = {field.name for field in dataclasses.fields(StudyConfig)} - NO_OPTIONS
"""Options of the study; the other options belong to every run."""
SHARED = {field.name for field in dataclasses.fields(TrainConfig)} - OWN - {*DECIDED_BY_STUDY}
"""Options of every run."""


def parse_compare(arguments: Sequence[str]) -> tuple[StudyConfig, bool]:
    """Parse the options of `rankwright compare` from the command line and a YAML file.

    Options on the command line override those of the file.

    Args:
        arguments: The command line after `compare`.

    Returns:
        The configuration of the study, and whether only its plan is wanted.

    Raises:
        UsageError: An option is unknown, missing or of a wrong type.
        MethodError: A value is out of its range, or the file cannot be read.
    """
    given = Given.read(arguments)
    types = _types()
    given.check(types)
    everything = given.as_arguments(types)
    parsed = parse_options(_parser(), everything, types)
    if parsed["methods"] is None or (parsed["task"] is None and parsed["data"] is None):
        raise UsageError("give --methods, and --task or --data")
    named = {argument.partition("=")[0].partition(".")[0][2:] for argument in everything}
    options = {name: parsed[name] for name in SHARED & named}
    own = {name: parsed[name] for name in OWN}
    file = None if given.text is None else _hide_passwords(given.text)
    return StudyConfig(**own, options=options, file=file), bool(parsed["dry_run"])


def _hide_passwords(text: str) -> str:
    return "\n".join(map(hide_password, text.splitlines()))


def run_study(arguments: Sequence[str], say: Callable[[str], None]) -> int:
    """Carry a study out, or show its plan; return the exit status.

    Args:
        arguments: The command line after `compare`.
        say: Takes a line for the user.
    """
    config, only_plan = parse_compare(arguments)
    command = shlex.join(["rankwright", "compare", *map(hide_password, arguments)])
    console = Console(stderr=True)
    with StudyTable(console, config.jobs) as table:
        processes = Processes(config.jobs, table.watch)
        with _stop_on_signal(processes, table.notify_at_once) as signals:
            try:
                if only_plan:
                    planned = dry_run(config, command, processes, table)
                    Console().print(plan_table(planned))
                    return 0
                folder = compare(config, command, processes, table)
            except StoppedError:
                say("stopped; run the same command to continue")
                return 128 + signals[0]
    Console().print(table.summary())
    if folder.records():
        _report(folder)
    for failure in folder.failures():
        say(f"{failure.label} on {failure.task}, seed {failure.seed}: {failure.error}")
    if folder.failures():
        say("these runs failed; run the same command to try them again")
    return 1 if folder.failures() else 0


def _report(folder: StudyFolder) -> None:
    """Print which differences are real, and write the report."""
    found = compute_results(folder)
    for task in found.tasks:
        for method in task.methods:
            if method.verdict is not None:
                print(f"{task.task.task}: {method.verdict.describe(task.unit)}")
        for sentence in words.stuck(task):
            print(f"{task.task.task}: {sentence}")
    print(f"report: {write_html(found, folder)}")
    print(f"summary: {write_markdown(found, folder)}")


@contextlib.contextmanager
def _stop_on_signal(processes: Processes, notify: Callable[[str], None]) -> Iterator[list[int]]:
    """Let the processes save checkpoints on Ctrl-C and SIGTERM; yield the signals received."""
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        received.append(number)
        processes.stop()
        notify("stopping once every process has saved a checkpoint")

    with handle_signals(stop, signal.SIGINT, signal.SIGTERM):
        yield received


def _parser() -> Parser:
    parser = Parser(
        prog="rankwright compare",
        usage=USAGE,
        description="Train several methods on the same data with the same budget and seeds, and "
        "report which differences are real. Finished runs are not repeated.",
    )
    parser.add_argument("--config", help="YAML file with any of these options")
    parser.add_argument(
        "--dry_run",
        type=bool,
        default=False,
        help="measure a few steps, show the plan, keep nothing",
    )
    parser.add_class_arguments(StudyConfig, None, skip=NO_OPTIONS | {"methods", "task"})
    parser.add_argument("--methods", type=Any, help=meanings(StudyConfig)["methods"])
    parser.add_argument("--task", type=Any, help=meanings(StudyConfig)["task"])
    group = parser.add_argument_group("Options of every run")
    group.add_class_arguments(TrainConfig, None, skip=OWN | {*DECIDED_BY_STUDY}, as_group=False)
    return parser


def _types() -> dict[str, Any]:
    """Return the type of every option by name."""
    types = option_types(TrainConfig) | option_types(StudyConfig)
    chosen = {name: hint for name, hint in types.items() if name in SHARED | OWN}
    return {"config": str, "dry_run": bool, **chosen}
