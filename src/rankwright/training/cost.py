"""What a run costs: parameters, memory, time, passes."""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from peft import get_peft_model_state_dict

from rankwright.core.run import Run
from rankwright.training.memory import PeakMemory


@dataclass
class CostMeter:
    """Measures pure steps: forward, backward, optimizer, extra passes; nothing else.

    Attributes:
        memory: Peak memory of the steps, and of the process.
        step_seconds: Wall time of each optimizer step.
        trainable: Largest number of parameters trained in any one step.
    """

    memory: PeakMemory
    step_seconds: list[float] = field(default_factory=list)
    trainable: int = 0
    _started: float = 0.0

    def start_step(self, run: Run) -> None:
        """A step begins."""
        trainable = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
        self.trainable = max(self.trainable, trainable)
        self.memory.start_step()
        self._started = time.perf_counter()

    def end_step(self) -> None:
        """A step has ended."""
        self.step_seconds.append(time.perf_counter() - self._started)
        self.memory.end_step()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to report the whole."""
        seconds = torch.tensor(self.step_seconds, dtype=torch.float64)
        return {
            "trainable": self.trainable,
            "step_seconds": seconds,
            "peak_memory_bytes": self.memory.step_peak,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with what was measured before."""
        self.trainable = state["trainable"]
        self.step_seconds = state["step_seconds"].tolist()
        self.memory.step_peak = state["peak_memory_bytes"]

    def report(self, run: Run) -> Cost:
        """The cost so far."""
        return Cost(
            trainable_parameters=self.trainable,
            stored_parameters=count_stored_parameters(run),
            peak_memory_bytes=self.memory.step_peak,
            median_step_seconds=statistics.median(self.step_seconds) if self.step_seconds else 0.0,
            training_seconds=sum(self.step_seconds),
            steps=len(self.step_seconds),
            passes=run.passes,
        )


@dataclass(frozen=True)
class Cost:
    """Cost of one run.

    Attributes:
        trainable_parameters: Largest number trained in any one step.
        stored_parameters: Numbers in the saved adapter, heads included.
        peak_memory_bytes: Peak over the training steps, evaluation, loading and saving left out:
            device memory on CUDA, else the resident set of the process. Of a resumed run the
            largest of its processes; where the system cannot tell steps apart (not Linux), that of
            the process.
        median_step_seconds: Median wall time of an optimizer step.
        training_seconds: Sum over the steps; no evaluation, no saving. Like the median, over the
            whole of a resumed run, but without steps that a crash undid.
        steps: Optimizer steps.
        passes: Forward-and-backward passes over a global batch, the whole run's.
    """

    trainable_parameters: int
    stored_parameters: int
    peak_memory_bytes: int
    median_step_seconds: float
    training_seconds: float
    steps: int
    passes: float

    def as_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


def count_stored_parameters(run: Run) -> int:
    """Numbers in the adapter file that `save_pretrained` would write now."""
    state = get_peft_model_state_dict(
        run.model, adapter_name=run.adapter_name, save_embedding_layers=False
    )
    return sum(tensor.numel() for tensor in state.values())
