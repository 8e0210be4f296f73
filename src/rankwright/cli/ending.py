"""The end of a command: an exit status, and one message if it failed."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rankwright.cli.arguments import UsageError
from rankwright.errors import FieldError, MethodError, TrainingError
from rankwright.tasks.errors import TaskError

SIGNALLED = 128
"""Base of exit statuses after a signal: shells report 128 plus the signal's number."""


@dataclass
class Ending:
    """The exit status of a command, 0 unless it is set."""

    status: int = 0


@contextmanager
def ending(command: str) -> Iterator[Ending]:
    """Turn an error that a user can act on into one message and an exit status."""
    end = Ending()
    try:
        yield end
    except UsageError as error:
        say(f"rankwright {command}: {error}\nrankwright {command} --help lists the options.")
        end.status = 2
    except BrokenPipeError:  # as after `rankwright methods | head`; `main` handles it
        raise
    except FieldError as error:
        say(f"rankwright {command}: {_with_option(error, command)}")
        end.status = 1
    except (MethodError, TaskError, TrainingError, OSError) as error:  # OSError: a full disk, say
        say(f"rankwright {command}: {error}")
        end.status = 1
    except KeyboardInterrupt:
        say(f"rankwright {command}: interrupted")
        end.status = SIGNALLED + signal.SIGINT
    except SystemExit as leaving:  # argparse, after --help or a wrong option
        end.status = int(leaving.code or 0)


def _with_option(error: FieldError, command: str) -> str:
    """Return the message, with the field replaced by the option that sets it."""
    option = None
    if error.owner in ("TrainConfig", "StudyConfig"):
        option = "--" + error.name.replace("_", "-")
    elif command == "train":
        option = _option_of(error)
    return str(error) if option is None else str(error).replace(error.place, option, 1)


def _option_of(error: FieldError) -> str | None:
    """Return the option of `train` that sets a field of a method or part; None without one."""
    from rankwright.core.method_registry import available_methods
    from rankwright.core.part_registry import (  # they import torch, as the owner did
        SLOTS,
        available_parts,
    )

    if error.owner in {cls.__name__ for cls in available_methods().values()}:
        return f"--method.{error.name}"
    for slot in SLOTS:
        for name, cls in available_parts(slot).items():
            if cls.__name__ == error.owner:
                return f"--{slot}.{name}.{error.name}"
    return None


def say(text: str) -> None:
    """Print a line for the user on stderr; stdout is for results."""
    print(text, file=sys.stderr, flush=True)
