"""Averaged LoRA: the saved adapter is the mean of the adapters of the last optimizer steps.

Polyak, Juditsky, "Acceleration of Stochastic Approximation by Averaging", SIAM J. Control Optim.
30(4), 1992, here for the factors A (r, in) and B (out, r) of LoRA and for a task head:

    mean_k = mean_(k-1) + (theta_k - mean_(k-1)) / k,    k = 1, 2, ...

k counts the averaged steps, and theta_k holds the parameters after the k-th of them. After the last
step theta is set to the mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from rankwright.core.fields import check_field
from rankwright.core.method import Method
from rankwright.core.slots import Slots
from rankwright.core.slots import Procedure, ProcedureState
from rankwright.core.run import Run


@dataclass(frozen=True, kw_only=True)
class AveragedLoRA(Method):
    """LoRA whose trained parameters are averaged over the end of the run.

    Attributes:
        average_from: Share of the optimizer steps after which averaging starts.
    """

    name: ClassVar[str] = "averaged_lora"
    summary: ClassVar[str] = "LoRA that saves the mean of its last steps"
    reference: ClassVar[str] = "Polyak, Juditsky, SIAM J. Control Optim. 30(4), 1992"
    cost: ClassVar[str] = "1 pass per step; one more copy of the trained parameters"

    average_from: float = 0.5

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            MethodError: A field is out of its range.
        """
        super().__post_init__()
        check_field(self, "average_from", 0 <= self.average_from < 1, "a share in [0, 1)")

    def slots(self) -> Slots:
        """Return LoRA's parts and a procedure that averages."""
        return Slots(procedure=Average(self.average_from))


@dataclass(frozen=True)
class Average(Procedure):
    """A running mean of all trained parameters, starting after a share `start_at` of the steps."""

    start_at: float

    def start(self, run: Run) -> AverageState:
        """See `Procedure.start`."""
        return AverageState(run, self)


class AverageState(ProcedureState):
    """The mean during one run."""

    needs = frozenset({"after_step"})

    def __init__(self, run: Run, average: Average) -> None:
        super().__init__(run)
        self.average = average
        self.count = 0
        self.mean: dict[str, Tensor] = {}

    @torch.no_grad()
    def after_step(self) -> None:
        """Add the parameters after this step to the mean."""
        if self.run.step < int(self.average.start_at * self.run.total_steps):
            return
        self.count += 1
        for name, parameter in self.run.trainable().items():
            mean = self.mean.setdefault(name, torch.zeros_like(parameter))
            mean += (parameter - mean) / self.count

    @torch.no_grad()
    def end(self) -> None:
        """Set the parameters to the mean; keep them if the run stopped before averaging began."""
        for name, parameter in self.run.trainable().items():
            parameter.copy_(self.mean.get(name, parameter))

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs to continue the same mean."""
        return {"count": self.count, "mean": self.mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        self.count = state["count"]
        self.mean = {
            name: state["mean"][name].to(parameter.device)
            for name, parameter in self.run.trainable().items()
            if name in state["mean"]
        }
