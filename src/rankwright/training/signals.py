"""End a run on SIGTERM: finish the current step, save a checkpoint and return."""

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
def handle_signals(handler: Handler, *numbers: int) -> Iterator[None]:
    """Install a signal handler, and restore the previous ones at the end.

    Outside the main thread, which alone may install handlers, nothing is done.

    Args:
        handler: Called with the number of a signal.
        numbers: The signals.
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
    """Notes SIGTERM while a run is watched; the training loop asks between two steps.

    Attributes:
        requested: Whether this process was asked to stop.
        stopped: Whether the run in the last `watch` was stopped.
    """

    def __init__(self) -> None:
        self.requested = False
        self.stopped = False

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Handle SIGTERM until the end; outside the main thread, do nothing."""
        self.requested = self.stopped = False
        with handle_signals(self._note, signal.SIGTERM):
            yield

    def stop_if_requested(self, device: torch.device) -> bool:
        """Return whether any process was asked to stop; the same answer on all processes."""
        self.stopped = self._requested_anywhere(device)
        return self.stopped

    def _requested_anywhere(self, device: torch.device) -> bool:
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return self.requested
        flag = torch.tensor(float(self.requested), device=device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        del signum, frame
        self.requested = True
