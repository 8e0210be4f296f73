"""Peak memory is that of the steps; what lies between them, and what it leaves, is not in it."""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import TrainerCallback

from models import classification_rows
from rankwright.methods import LoRA
from rankwright.training import memory
from rankwright.training.cost import CostMeter
from rankwright.training.memory import PeakMemory
from resident import MIB, take, tells_steps_apart
from trainers import build_trainer

CPU = torch.device("cpu")


def step(watched: PeakMemory, mib: int) -> int:
    """A step that takes so much; the peak of the steps after it."""
    watched.start_step()
    take(mib)
    watched.end_step()
    return watched.step_peak


@tells_steps_apart
def test_what_is_taken_between_steps_is_the_processes_alone() -> None:
    watched = PeakMemory(CPU)
    first = step(watched, 1)
    for _ in range(2):
        take(400)
        assert step(watched, 1) < first + 50 * MIB
    assert watched.process_peak > first + 350 * MIB
    take(600)  # after the last step
    assert watched.process_peak > first + 550 * MIB


@tells_steps_apart
def test_what_a_step_takes_is_seen_although_it_gives_it_back() -> None:
    watched = PeakMemory(CPU)
    first = step(watched, 1)
    assert step(watched, 400) > first + 350 * MIB
    assert step(watched, 1) > first + 350 * MIB  # the largest counts


@tells_steps_apart
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="glibc keeps free heap")
def test_heap_that_an_evaluation_left_free_is_not_a_steps() -> None:
    watched = PeakMemory(CPU)
    first = step(watched, 1)
    small = [torch.ones(16_000) for _ in range(5000)]  # 64 kB each: of the heap, not of pages
    last = small.pop()  # at its end, so that it cannot shrink
    small.clear()
    assert memory._read_status("VmRSS") > first + 200 * MIB
    assert step(watched, 1) < first + 50 * MIB
    del last


def test_a_resumed_meter_has_the_largest_peak_of_its_processes() -> None:
    run: Any = SimpleNamespace(model=nn.Linear(1, 1))
    meter = CostMeter(PeakMemory(CPU))
    meter.start_step(run)
    take(400)
    meter.end_step()
    before = meter.memory.step_peak
    resumed = CostMeter(PeakMemory(CPU))
    resumed.load_state_dict(meter.state_dict())
    resumed.start_step(run)
    resumed.end_step()
    assert resumed.memory.step_peak == max(before, resumed.memory._gauge.peak())


def test_a_peak_that_cannot_begin_anew_is_that_of_the_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(memory, "CLEAR_REFS", tmp_path / "nowhere" / "clear_refs")
    watched = PeakMemory(CPU)
    take(400)
    so_far = watched.process_peak
    assert so_far > 400 * MIB
    assert step(watched, 1) >= so_far


def test_where_the_kernel_states_no_peak_getrusage_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(memory, "STATUS", tmp_path / "status")
    watched = PeakMemory(CPU)
    assert step(watched, 1) == memory._peak_by_rusage() > 50 * MIB  # bytes, not kilobytes
    memory.STATUS.write_text("Name:\tpython\n")
    assert PeakMemory(CPU).process_peak == memory._peak_by_rusage()


class Allocator:
    """CUDA's, as far as it is asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.held = self.peak = 10
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _device: self.peak)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", self._reset)

    def take(self, size: int) -> None:
        self.peak = max(self.peak, self.held + size)

    def _reset(self, device: torch.device) -> None:
        assert device == torch.device("cuda:1")
        self.peak = self.held


def test_on_cuda_the_allocators_peak_begins_anew_with_every_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    allocator = Allocator(monkeypatch)
    watched = PeakMemory(torch.device("cuda:1"))
    for between, within in ((70, 5), (40, 20), (90, 3)):
        allocator.take(between)
        watched.start_step()
        allocator.take(within)
        watched.end_step()
    assert watched.step_peak == 30
    assert watched.process_peak == 100


class Takes(TrainerCallback):
    """Takes memory, in MiB, within the steps of a run and when it evaluates and saves."""

    def __init__(self, within: int, between: int) -> None:
        self.within, self.between = within, between

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        take(self.within)

    def on_evaluate(self, *_: Any, **__: Any) -> None:
        take(self.between)

    on_save = on_evaluate


@tells_steps_apart
def test_a_runs_cost_leaves_evaluation_and_saving_out(tmp_path: Path) -> None:
    def trainer(takes: Takes, **resume: Any) -> Any:
        made = build_trainer(
            LoRA(), "bert", tmp_path, callbacks=[takes], max_steps=4,
            options={"eval_dataset": classification_rows(4)},
            save_strategy="steps", save_steps=1, eval_strategy="steps", eval_steps=1,
        )  # fmt: skip
        made.train(**resume)
        return made

    lean, large = (trainer(Takes(*mib)) for mib in ((1, 700), (400, 1)))
    peak = lean.cost().peak_memory_bytes
    assert lean.process_peak_bytes() > peak + 600 * MIB
    assert large.cost().peak_memory_bytes > peak + 300 * MIB
    resumed = trainer(Takes(1, 1), resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert resumed.cost().peak_memory_bytes > peak + 300 * MIB
