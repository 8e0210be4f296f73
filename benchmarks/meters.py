"""Time, memory, and bytes kept for the backward pass, of one call."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import struct
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

ROOT = Path(__file__).resolve().parent.parent
Call = Callable[[], Any]

_PERF_EVENT_OPEN = 298  # system call number on x86-64
_HARDWARE = {"cycles": 0, "instructions": 1}


class Meter:
    """Measures a call, in the finest unit that this machine gives.

    CUDA: time between two events. Else the processor's own counters of this thread (Linux on
    x86-64, one thread, and a kernel that allows it), else processor time, which other programs on
    the same core lengthen by what they evict from its caches only.

    Attributes:
        units: Names of the figures; the first one is what ratios are made of.
    """

    def __init__(self) -> None:
        self._counters = {} if torch.cuda.is_available() else _open_counters()
        self.units = ["ms"] if torch.cuda.is_available() else [*self._counters, "ms"]

    def __call__(self, call: Call) -> dict[str, float]:
        """Figures of one call, by unit."""
        if torch.cuda.is_available():
            return {"ms": _cuda_ms(call)}
        before = {name: _read(fd) for name, fd in self._counters.items()}
        started = time.process_time_ns()
        call()
        ms = (time.process_time_ns() - started) / 1e6
        after = {name: _read(fd) for name, fd in self._counters.items()}
        return {**{name: after[name] - before[name] for name in before}, "ms": ms}


def saved_bytes(model: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Bytes that the graph of a loss keeps until the backward pass.

    Each storage counts once and whole, whichever part of it is kept; parameters and buffers of the
    model are there anyway and do not count. Exact, the same on every machine.

    Args:
        model: Its parameters and buffers are left out.
        forward: Gives the loss.
    """
    own = {_storage(tensor) for tensor in (*model.parameters(), *model.buffers())}
    kept: list[weakref.ref[_Kept]] = []

    def pack(tensor: Tensor) -> _Kept:
        kept.append(weakref.ref(held := _Kept(tensor.detach())))
        return held

    with saved_tensors_hooks(pack, lambda held: held.tensor):
        loss = forward()
    alive = [held.tensor for reference in kept if (held := reference()) is not None]
    storages = {_storage(tensor): tensor.untyped_storage().nbytes() for tensor in alive}
    del loss
    return sum(size for storage, size in storages.items() if storage not in own)


class _Kept:
    """A tensor held by the graph alone; detached, or it would hold the graph too."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def peak_bytes(call: Call) -> int:
    """What a call needs at its peak, beyond what was there before it; use a fresh process."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    _forget_peak()
    before = _resident()
    call()
    return _resident_peak() - before


def peak_in_fresh_process(module: str, shape: str, name: str) -> int:
    """Bytes that `python -m MODULE --peak-of SHAPE NAME` prints last.

    Args:
        module: A module of this folder that prints `peak_bytes` of what it is asked for.
        shape: Key of the model.
        name: What is measured on it.
    """
    command = [sys.executable, "-m", module, "--peak-of", shape, name]
    # every tensor of 8 KiB in pages of its own, given back at once: else glibc keeps what it likes
    own_pages = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "8192"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=ROOT, env=own_pages
    )
    return int(done.stdout.split()[-1])


def _forget_peak() -> None:
    """Give back what is free, which the call would else fill unseen, and begin the peak anew."""
    gc.collect()
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):  # glibc
            libc.malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _resident() -> int:
    """Resident bytes now; where the system does not tell, at their peak so far."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return _resident_peak()
    return int(statm.read_text().split()[1]) * resource.getpagesize()


def _resident_peak() -> int:
    """Of this program: `ru_maxrss` would be that of the parent, if it was larger when it forked."""
    status = Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _cuda_ms(call: Call) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end))


def _open_counters() -> dict[str, int]:
    """File descriptors of this thread's counters in user mode; none where not to be had."""
    usable = sys.platform == "linux" and os.uname().machine == "x86_64"
    if not usable or torch.get_num_threads() > 1 or not Path("/proc/sys/kernel").exists():
        return {}
    opened = {name: _open_counter(config) for name, config in _HARDWARE.items()}
    return opened if min(opened.values()) >= 0 else {}


def _open_counter(config: int) -> int:
    attributes = bytearray(128)
    exclude_kernel_and_hypervisor = 1 << 5 | 1 << 6
    struct.pack_into(
        "IIQQQQQ", attributes, 0, 0, 128, config, 0, 0, 0, exclude_kernel_and_hypervisor
    )
    buffer = (ctypes.c_char * 128).from_buffer(attributes)
    libc = ctypes.CDLL(None, use_errno=True)
    return int(libc.syscall(_PERF_EVENT_OPEN, buffer, 0, -1, -1, 0))


def _read(fd: int) -> int:
    return int.from_bytes(os.read(fd, 8), "little")
