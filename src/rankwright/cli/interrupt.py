"""Ctrl-C while a run trains: the first one saves a checkpoint, the second one ends it at once."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType

from rankwright.training.signals import handled

STDERR = 2


def say_at_once(text: str) -> None:
    """A line on stderr from a signal handler, which may come while another line is printed."""
    with contextlib.suppress(OSError):  # a terminal that is closed
        os.write(STDERR, f"{text}\n".encode())


@contextlib.contextmanager
def interrupt_saves(say: Callable[[str], None] | None) -> Iterator[list[int]]:
    """Let Ctrl-C do what SIGTERM does while the trainer listens for that; yields those that came.

    Before and after training there is nothing to save, and Ctrl-C ends the program.

    Args:
        say: Takes a line for the user, from a signal handler.
    """
    came: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if came or not callable(signal.getsignal(signal.SIGTERM)):
            signal.default_int_handler(number, frame)
        came.append(number)
        if say is not None:
            say("stopping after this step, with a checkpoint; Ctrl-C again stops at once")
        signal.raise_signal(signal.SIGTERM)

    with handled(stop, signal.SIGINT):
        yield came
