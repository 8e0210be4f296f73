"""Ctrl-C during training: the first saves a checkpoint, the second stops at once."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType

from rankwright.training.signals import handle_signals

STDERR = 2


def say_at_once(text: str) -> None:
    """Print a line on stderr from a signal handler, which may interrupt another print."""
    with contextlib.suppress(OSError):  # a closed terminal
        os.write(STDERR, f"{text}\n".encode())


@contextlib.contextmanager
def interrupt_saves(say: Callable[[str], None] | None) -> Iterator[list[int]]:
    """Make Ctrl-C act as SIGTERM while the trainer handles that; yield the list of interrupts.

    Before and after training there is nothing to save, and Ctrl-C ends the program.

    Args:
        say: Prints a line for the user from a signal handler; None for no message.
    """
    interrupts: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if interrupts or not callable(signal.getsignal(signal.SIGTERM)):
            signal.default_int_handler(number, frame)
        interrupts.append(number)
        if say is not None:
            say("stopping after this step, with a checkpoint; Ctrl-C again stops at once")
        signal.raise_signal(signal.SIGTERM)

    with handle_signals(stop, signal.SIGINT):
        yield interrupts
