"""Peak memory of the training steps, apart from what the process does between them.

CUDA's allocator and the Linux kernel each keep one peak and let it begin anew: of the bytes
allocated on a device, and of the resident set of the process. Where the resident set's cannot (not
Linux, or /proc/self/clear_refs not writable), the peak of a step is that of the process so far.
"""

from __future__ import annotations

import contextlib
import ctypes
import resource
import sys
from pathlib import Path
from typing import Protocol

import torch

CLEAR_REFS = Path("/proc/self/clear_refs")
STATUS = Path("/proc/self/status")
RESET_PEAK = "5"
"""What `CLEAR_REFS` takes to begin VmHWM in `STATUS` anew; 10 us, a reading 20 us."""
NOTABLE = 1.01
"""Beyond so many times the steps' peak, what lies between them has its free heap given back, which
takes milliseconds."""


class PeakMemory:
    """Watches training steps, and the process around them.

    At the start of every step the peak begins anew for all who read it: a
    `torch.cuda.max_memory_allocated()` or a VmHWM read elsewhere is since then.

    Args:
        device: Where the steps compute.

    Attributes:
        step_peak: Bytes at the peak within the steps so far; 0 before the first.
    """

    def __init__(self, device: torch.device) -> None:
        self.step_peak = 0
        self._around_steps = 0
        self._gauge: _Gauge = _Device(device) if device.type == "cuda" else _ResidentSet()

    @property
    def process_peak(self) -> int:
        """Bytes at the peak of this process so far, what it did between the steps included."""
        return max(self._around_steps, self._gauge.peak())

    def start_step(self) -> None:
        """A step begins: what was there before counts no more."""
        peak = self._gauge.peak()
        self._around_steps = max(self._around_steps, peak)
        if peak > NOTABLE * self.step_peak:
            self._gauge.release_free()
        self._gauge.reset()

    def end_step(self) -> None:
        """A step has ended."""
        self.step_peak = max(self.step_peak, self._gauge.peak())


class _Gauge(Protocol):
    """What keeps a peak."""

    def peak(self) -> int:
        """Bytes at the peak since it was forgotten last."""

    def reset(self) -> None:
        """Begin the peak anew, from what is held now."""

    def release_free(self) -> None:
        """Hold no more than what is in use."""


class _Device:
    """Allocated bytes of a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def peak(self) -> int:
        return int(torch.cuda.max_memory_allocated(self._device))

    def reset(self) -> None:
        torch.cuda.reset_peak_memory_stats(self._device)

    def release_free(self) -> None:
        """What the allocator caches does not count."""


class _ResidentSet:
    """The resident set of this process."""

    def peak(self) -> int:
        # ru_maxrss comes second: on Linux it is the parent's, if that was larger when it forked
        return _read_status("VmHWM") or _peak_by_rusage()

    def reset(self) -> None:
        with contextlib.suppress(OSError):
            CLEAR_REFS.write_text(RESET_PEAK, encoding="ascii")

    def release_free(self) -> None:
        """An evaluation leaves heap that is free and still resident; only glibc can be asked."""
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)


def _read_status(field: str) -> int:
    """Bytes that the kernel states in a field; 0 where there is no such field."""
    with contextlib.suppress(OSError), STATUS.open(encoding="utf-8") as lines:
        for line in lines:
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    return 0


def _peak_by_rusage() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
