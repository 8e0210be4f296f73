r"""Training at weights that random noise has moved: Flat-LoRA's expected loss.

    min over A, B of  E_eps L(W' + eps),    W' = W + s B A,    eps_ij ~ N(0, (f rho |W'_i|)^2 / in)

One optimizer step sees one eps a module (arXiv 2409.14396), drawn from (seed, step, module name)
by :mod:`rankwright.layers.noise`, so that a recomputed forward, another process and a resumed run
see the same. `f = (1 - cos(pi step / total_steps)) / 2` rises from 0 to 1 over the optimizer steps.
Between `after_backward` and the next `before_step` the model has no trace of it, but where a
training batch of the step is evaluated again: that sees its own sample once more.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch.distributed as dist
from torch import Tensor

from rankwright.algebra.row_norms import row_norm_sq
from rankwright.core.batch import MicroBatch
from rankwright.core.fields import check_field
from rankwright.core.part_registry import register_part
from rankwright.core.run import Run
from rankwright.core.slots import Procedure, ProcedureState
from rankwright.kernels.seeded_noise import Noise
from rankwright.layers.noise import NoiseHandle, add_noise, check_noise, row_std
from rankwright.peft_layers.weight_view import base_rows


@register_part("flat")
@dataclass(frozen=True, kw_only=True)
class Perturbation(Procedure):
    """Noise on the effective weights during forward and backward.

    "Published" is the code at nblt/Flat-LoRA@16d48ae.

    Attributes:
        rho: Strength of the noise at the end of training, relative to the norm of each weight row;
            0.05 (published example; its default is 0, no noise).
        per_micro_batch: A sample for each micro-batch (ours), or one for the whole optimizer step
            (published).
        same_on_all_processes: One sample for all processes (ours), so that several compute what one
            process computes on the global batch; False (published): each draws its own, and the
            gradient is averaged over the samples.
    """

    rho: float = 0.05
    per_micro_batch: bool = False
    same_on_all_processes: bool = True

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            MethodError: `rho` is negative or not finite.
        """
        check_field(self, "rho", 0 <= self.rho < math.inf, "a finite number of at least 0")

    def start(self, run: Run) -> PerturbationState:
        """See `Procedure.start`.

        Raises:
            MethodError: An adapted layer is not linear.
        """
        return PerturbationState(run, self)


class PerturbationState(ProcedureState):
    """Perturbation at work; it keeps nothing that a checkpoint would have to hold."""

    needs = frozenset({"before_step", "after_backward"})

    def __init__(self, run: Run, perturbation: Perturbation) -> None:
        super().__init__(run)
        self.perturbation = perturbation
        self._base_norm_sq: dict[str, Tensor] = {}
        self._std: dict[str, Tensor] = {}  # of this step's noise, (out,) a module
        self._handles: list[NoiseHandle] = []
        for name, layer in run.layers.items():
            check_noise(name, layer)

    def begin(self) -> None:
        """Square the rows of the base weights, which never change."""
        if self.perturbation.rho:
            self._base_norm_sq = {n: row_norm_sq(base_rows(m)) for n, m in self.run.layers.items()}

    def before_step(self) -> None:
        """Put this step's noise on every layer."""
        run, strength = self.run, self.perturbation.rho * ramp(self.run.step, self.run.total_steps)
        run.metrics["noise"] = strength
        self._std = {}
        if strength:
            self._std = {
                name: row_std(layer, run.adapter_name, strength, self._base_norm_sq[name])
                for name, layer in run.layers.items()
            }
        self._put_on(self._now)

    def after_backward(self) -> None:
        """Take the noise away."""
        self._take_away()

    def abandon(self) -> None:
        """Take the noise away."""
        self._take_away()

    @contextlib.contextmanager
    def replaying(self, batch: MicroBatch) -> Iterator[None]:
        """The noise of its own forward for a training batch of the step, none for another."""
        there = bool(self._handles)
        self._take_away()
        numbers = (i for i, own in enumerate(self.run.micro_batches, start=1) if own is batch)
        number = next(numbers, None)
        if number is not None:
            self._put_on(lambda: number)
        try:
            yield
        finally:
            self._take_away()
            if there:
                self._put_on(self._now)

    def _now(self) -> int:
        """Number of the micro-batch that the step's own forward computes."""
        return len(self.run.micro_batches)

    def _put_on(self, micro: Callable[[], int]) -> None:
        """Noise on every layer; `micro` gives the number of the micro-batch, from 1."""
        for name, std in self._std.items():
            noise = partial(self._noise, name, std, micro)
            self._handles.append(add_noise(self.run.layers[name], self.run.adapter_name, noise))

    def _noise(self, name: str, std: Tensor, micro: Callable[[], int]) -> Noise:
        seed = self._seed(name, micro() if self.perturbation.per_micro_batch else 0)
        return Noise(seed, std, self.run.layers[name].in_features)

    def _seed(self, name: str, micro: int) -> int:
        """Seed of the present step's noise on a module, a pure function of where we are."""
        alone = not (dist.is_available() and dist.is_initialized())
        process = 0 if alone or self.perturbation.same_on_all_processes else dist.get_rank()
        return self.run.generator("noise", self.run.step, micro, process, name).initial_seed()

    def _take_away(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []


def ramp(step: int, total_steps: int) -> float:
    """The factor `f` on the noise: a cosine from 0 before the first step to 1 after the last.

    Args:
        step: 0-based optimizer step.
        total_steps: Optimizer steps of the whole run.

    Returns:
        A number from 0 to 1.
    """
    return (1 - math.cos(math.pi * step / total_steps)) / 2
