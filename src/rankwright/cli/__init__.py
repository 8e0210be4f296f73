"""The command line: train, compare, report, eval, export, plot, methods, parts, demo.

Every option of `rankwright train` is a field of `TrainConfig`, of the method (after `--method.`) or
of a part that is plugged onto it (after the name of a slot). A YAML file can hold all of them under
the same names, and the command line overrides it.
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
  compare   train several methods with the same data, budget and seeds, one process per run
  eval      compute the metrics of a finished run
  export    write a finished run as a PEFT adapter, as a plain LoRA of a given rank, or merged
  plot      plot the log of a run over its steps
  report    write the results of a study as HTML, as Markdown, or as the card of an adapter
  methods   list the methods; `methods show NAME` prints fields, equations and reference
  parts     list the parts to plug onto a method; `parts show NAME` prints their fields
  demo      fine-tune a small model offline, load the adapter with peft alone, compare

rankwright COMMAND --help lists the options of a command; `train --method NAME --help` those of the
method too. rankwright --version prints the version."""

COMMANDS = ("train", "compare", "report", "eval", "export", "plot", "methods", "parts", "demo")


PIPE_CLOSED = 141
"""Exit status after a closed pipe: 128 plus the number of SIGPIPE, as shells report it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status.

    0 is success, 1 an error that the message explains, 2 a command line that does not parse, 130 an
    interrupt from the keyboard, 141 a closed output pipe, and 143 a SIGTERM; a run stopped in
    training can be resumed.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has ended, as `head` does
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
    # bitsandbytes, which PEFT imports, asks for another package on some CPUs, for 4-bit weights
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    from rankwright.cli.early_check import read_rows_early
    from rankwright.cli.ending import ending

    with ending(command) as end:
        rows = read_rows_early(command, arguments[1:])
        from rankwright.cli.commands import run  # torch and transformers take seconds to import

        end.status = run(command, arguments[1:], rows)
    return end.status
