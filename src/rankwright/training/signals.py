"""Signals that end a run: SIGTERM finishes the step in hand, saves and leaves."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import torch
import torch.distributed as dist

Handler = Callable[[int, FrameType | None], None]


@contextlib.contextmanager
def handled(handler: Handler, *numbers: int) -> Iterator[None]:
    """Let signals call a function, and put back what they did. Outside the main thread: nothing.

    Args:
        handler: Called with the number of a signal.
        numbers: Of the signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = [signal.signal(number, handler) for number in numbers]
    try:
        yield
    finally:
        for number, before in zip(numbers, previous, strict=True):
            signal.signal(number, before)


class Termination:
    """Notes SIGTERM while it is watched; the training loop asks between two steps."""

    def __init__(self) -> None:
        self.requested = False

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Take over SIGTERM, and give it back at the end. Outside the main thread: do nothing."""
        self.requested = False
        with handled(self._note, signal.SIGTERM):
            yield

    def agreed(self, device: torch.device) -> bool:
        """Whether any process was asked to stop; the same answer on all of them."""
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return self.requested
        flag = torch.tensor(float(self.requested), device=device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        del signum, frame
        self.requested = True
