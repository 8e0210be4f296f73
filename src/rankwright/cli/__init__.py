"""The command line: train, eval, export, report, methods, parts, demo.

Every option of `rankwright train` is a field of `TrainConfig` or, behind `--method.`, of the chosen
method, or, behind the name of a slot, of a part that is plugged onto it. A YAML file with the same
names can hold all of them, and the command line overrides it.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import sys
from collections.abc import Sequence

USAGE = """\
usage: rankwright COMMAND [options]

  train     fine-tune a model with a method; leaves a folder with a plain PEFT adapter
  compare   several methods on the same data, budget and seeds, each run in its own process
  eval      metrics of a finished run
  export    a finished run as PEFT adapter, as plain LoRA of a stated rank, or merged
  plot      what was logged while a run trained, drawn over its steps
  report    a study's figures as one HTML file, as Markdown, or as the card of an adapter
  methods   what there is; `methods show NAME` for fields, equations and reference
  parts     what can be plugged onto a method; `parts show NAME` for its fields
  demo      fine-tune a small model offline, load the adapter with peft alone, compare

rankwright COMMAND --help has the options of a command; after `train --method NAME` those of the
method are among them. rankwright --version says which version this is."""

COMMANDS = ("train", "compare", "report", "eval", "export", "plot", "methods", "parts", "demo")


PIPE_CLOSED = 141
"""Exit status when nobody reads on: 128 and the number of SIGPIPE, as shells report it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status.

    0 is success, 1 an error that the message explains, 2 a command line that does not parse, 130 an
    interrupt from the keyboard, 141 output that nobody reads, and 143 a SIGTERM; a run that was in
    training then can be resumed.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # what reads our output has had enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return PIPE_CLOSED
    return status


def _run(arguments: list[str]) -> int:
    command = arguments[0] if arguments else "--help"
    if command in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    if command == "--version":
        print(f"rankwright {importlib.metadata.version('rankwright')}")
        return 0
    if command not in COMMANDS:
        print(f"rankwright: unknown command {command!r}\n\n{USAGE}", file=sys.stderr)
        return 2
    # bitsandbytes, which PEFT imports, asks for one more package on some CPUs, for 4-bit weights
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    from rankwright.cli.early_check import read_rows_early
    from rankwright.cli.ending import ending

    with ending(command) as end:
        rows = read_rows_early(command, arguments[1:])
        from rankwright.cli.commands import run  # torch and transformers take seconds to import

        end.status = run(command, arguments[1:], rows)
    return end.status
