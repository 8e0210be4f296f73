"""How a command ends: an exit status, and one message where it failed."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rankwright.cli.arguments import UsageError
from rankwright.core.errors import MethodError, TrainingError
from rankwright.tasks.errors import TaskError

SIGNALLED = 128
"""Exit status, with a signal's number added, of what the signal ended; as shells report it."""


@dataclass
class Ending:
    """The exit status of a command, 0 until something else is known."""

    status: int = 0


@contextmanager
def ending(command: str) -> Iterator[Ending]:
    """Turns an error that a user can act on into one message and an exit status."""
    end = Ending()
    try:
        yield end
    except UsageError as error:
        say(f"rankwright {command}: {error}\nrankwright {command} --help lists the options.")
        end.status = 2
    except BrokenPipeError:  # of `rankwright methods | head`; main ends it
        raise
    except (MethodError, TaskError, TrainingError, OSError) as error:  # a disk that is full, say
        say(f"rankwright {command}: {error}")
        end.status = 1
    except KeyboardInterrupt:
        say(f"rankwright {command}: interrupted")
        end.status = SIGNALLED + signal.SIGINT
    except SystemExit as leaving:  # argparse, after --help or a wrong option
        end.status = int(leaving.code or 0)


def say(text: str) -> None:
    """A line for the user, beside what is printed for programs."""
    print(text, file=sys.stderr, flush=True)
