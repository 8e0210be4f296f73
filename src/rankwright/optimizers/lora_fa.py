"""LoRA-FA: the step of B that moves W closest along its own gradient, while A stays.

With W = W0 + s B A and G = dL/dW, a direction gB of B moves W by s gB A. The one with the least
|s gB A - G| is

    gB = s^-2 hB (A A^T)^-1,    hB = dL/dB = s G A^T (out, r),

and s gB A = G P_A is the projection of G on the rows of A (arXiv 2308.03303), however A is scaled
or rotated. A does not change, so neither does (A A^T)^-1 `(r, r)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from rankwright.algebra.precision import compute_dtype
from rankwright.algebra.spectra import ridged_inverse, spectrum
from rankwright.core.fields import check_field
from rankwright.core.part_registry import register_part
from rankwright.core.run import Run
from rankwright.core.slots import Layer, OptimizerPart
from rankwright.layers.frozen import FrozenA
from rankwright.optimizers.pairs import Pair, named_pairs
from rankwright.peft_layers.weight_view import tensor_version


@register_part("lora_fa")
@dataclass(frozen=True)
class LoraFa(OptimizerPart):
    """The gradient of B that moves W along G P_A, under whatever optimizer the engine has.

    Attributes:
        delta: Ridge on A A^T; 1e-8 (PEFT).
    """

    elementwise: ClassVar[bool] = False

    delta: float = 1e-8

    def __post_init__(self) -> None:
        """Check the field.

        Raises:
            MethodError: `delta` is negative.
        """
        check_field(self, "delta", self.delta >= 0, "a number of at least 0")

    def layer(self) -> Layer:
        """See `Part.layer`."""
        return FrozenA()

    def build(self, run: Run, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """See `OptimizerPart.build`.

        Raises:
            MethodError: The update of a layer is not s B A.
        """
        optimizer = run.default_optimizer(groups)
        project_gradients(optimizer, named_pairs(run.layers, run.adapter_name), self.delta)
        return optimizer


def project_gradients(
    optimizer: torch.optim.Optimizer, pairs: Mapping[str, Pair], delta: float = 1e-8
) -> None:
    """Let an optimizer step every B along gB; `.grad` is as it was before and after the step.

    Example:
        >>> optimizer = torch.optim.AdamW(trained_parameters)  # doctest: +SKIP
        >>> project_gradients(optimizer, named_pairs(model))  # doctest: +SKIP

    Args:
        optimizer: Any that takes its gradients from `.grad` when `step` is called.
        pairs: Pairs whose A is not trained.
        delta: Ridge on A A^T.
    """
    projection = _Projection(pairs, delta)
    optimizer.register_step_pre_hook(projection.project)
    optimizer.register_step_post_hook(projection.put_back)


class _Projection:
    """Around one step: gB in the place of hB."""

    def __init__(self, pairs: Mapping[str, Pair], delta: float) -> None:
        self._pairs = pairs
        self._delta = delta
        self._raw: dict[str, Tensor] = {}
        self._inverses: dict[str, tuple[object, Tensor]] = {}

    @torch.no_grad()
    def project(self, *_: Any) -> None:
        for name, pair in self._pairs.items():
            hB = pair.B.grad
            if hB is not None:
                self._raw[name] = hB
                dtype = compute_dtype(hB)
                gB = hB.flatten(1).to(dtype) @ self._inverse(pair).to(dtype)
                pair.B.grad = gB.view_as(hB).to(hB.dtype)

    def put_back(self, *_: Any) -> None:
        for name, hB in self._raw.items():
            self._pairs[name].B.grad = hB
        self._raw = {}

    def _inverse(self, pair: Pair) -> Tensor:
        """`s^-2 (A A^T + delta I)^-1`, computed anew when A was written: by a checkpoint, say."""
        version = tensor_version(pair.A)
        known = self._inverses.get(pair.name)
        if known is None or known[0] != version:
            A = pair.view_A(pair.A)
            A = A.to(compute_dtype(A))
            known = version, ridged_inverse(spectrum(A @ A.T), self._delta) / pair.scaling**2
            self._inverses[pair.name] = known
        return known[1]
