"""SIGTERM: finish the step in hand, save, leave."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import torch
import torch.distributed as dist


class Termination:
    """Notes SIGTERM while it is watched; the training loop asks between two steps."""

    def __init__(self) -> None:
        self.requested = False

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Take over SIGTERM, and give it back at the end. Outside the main thread: do nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self.requested = False
        previous = signal.signal(signal.SIGTERM, self._note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous)

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
