"""AdamW on the adjusted gradients of LoRA-Pro, in the space of the factors or of the weights.

:mod:`rankwright.optimizers.equivalent` turns the gradients of A and B into the pair (gA, gB) whose
effect E on W is closest to dL/dW. From there, at step t of a pair (arXiv 2407.18242):

- "efficient": (gA, gB) are the gradients of an ordinary AdamW on A and B.
- "full": AdamW of W itself, without W's gradient. With M and V (out, in),

      M <- b1 M + (1 - b1) E,    V <- b2 V + (1 - b2) E * E,
      U = M / (1 - b1^t) / (sqrt(V / (1 - b2^t)) + eps),

  and U takes the place of G: hA = s B^T U, hB = s U A^T are adjusted in turn, and A and B move by
  lr times the outcome. M and V are streamed by blocks of rows; E and U exist for one of them at a
  time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from rankwright.algebra.precision import compute_dtype
from rankwright.core.fields import check_field
from rankwright.core.part_registry import register_part
from rankwright.core.run import Run
from rankwright.core.slots import OptimizerPart
from rankwright.optimizers.base import PairBatch, PairOptimizer
from rankwright.optimizers.equivalent import (
    Coefficients,
    Grams,
    XMode,
    coefficients,
    combined,
    equivalent_norm_sq,
    grams,
)
from rankwright.optimizers.moments import Format, Moment, dither, on, row_blocks
from rankwright.optimizers.pairs import Pair, named_pairs

Mode = Literal["efficient", "full"]

_M, _V, _SCALES = "weight_exp_avg", "weight_exp_avg_sq", "_scales"

Sides = tuple[Tensor, Tensor]
"""What A has and what B has, (n, r, in) and (n, out, r)."""


@register_part("lora_pro")
@dataclass(frozen=True, kw_only=True)
class LoraPro(OptimizerPart):
    """AdamW on the adjusted gradients of LoRA-Pro.

    "Published" is the code at mrflogs/LoRA-Pro@fe26027, which has "full" only.

    Attributes:
        mode: "efficient" (ours): moments in the shapes of A and B, learning rates of LoRA. "full"
            (published): moments of out x in numbers, learning rates of full fine-tuning.
        x_mode: The matrix X that E does not depend on: "sylvester" (published), "symmetric" or
            "zero"; see `adjusted_gradients`.
        delta: Ridge on A A^T and B^T B where they are inverted; 1e-8 (published). While B is small
            it is what limits the step of A.
        relative_delta: Whether it is relative to the mean of their diagonals (ours).
        betas: Decay rates of the moments.
        eps: Epsilon of AdamW.
        max_norm: Limit on the norm of E over all pairs, to which it is scaled down; None: none. The
            engine's own clipping is switched off.
        moments: Format of the moments of "full": "float32", "bfloat16" or "8bit" (ours).
        moments_on_host: Whether they are kept in the host's memory (ours).
        as_published: Reproduce two slips of the published code in "full": the bias correction
            counts from 2, and from the second step on V takes E rounded to bfloat16.
    """

    elementwise: ClassVar[bool] = False

    mode: Mode = "efficient"
    x_mode: XMode = "sylvester"
    delta: float = 1e-8
    relative_delta: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    max_norm: float | None = None
    moments: Format = "float32"
    moments_on_host: bool = False
    as_published: bool = False

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            MethodError: One is out of its range.
        """
        for name, values in (("mode", Mode), ("x_mode", XMode), ("moments", Format)):
            allowed = get_args(values)
            check_field(self, name, getattr(self, name) in allowed, f"one of {', '.join(allowed)}")
        check_field(self, "delta", self.delta >= 0, "a number of at least 0")
        check_field(self, "eps", self.eps >= 0, "a number of at least 0")
        decays = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        check_field(self, "betas", decays, "two numbers in [0, 1)")
        limit = self.max_norm is None or self.max_norm > 0
        check_field(self, "max_norm", limit, "None or a number above 0")
        full = self.mode == "full"
        kept = self.moments == "float32" and not self.moments_on_host
        check_field(self, "mode", full or kept, '"full" where moments or moments_on_host are set')
        check_field(self, "mode", full or not self.as_published, '"full" with as_published')

    def build(self, run: Run, groups: list[dict[str, Any]]) -> LoraProAdamW:
        """See `OptimizerPart.build`.

        Raises:
            MethodError: A factor is not trained, or the update of a layer is not s B A.
        """
        return LoraProAdamW(groups, named_pairs(run.layers, run.adapter_name), **vars(self))


class LoraProAdamW(PairOptimizer):
    """LoRA-Pro for any training loop.

    Example:
        >>> optimizer = LoraProAdamW.for_model(model, lr=2e-5, mode="full")  # doctest: +SKIP
        >>> loss.backward()  # doctest: +SKIP
        >>> optimizer.step()  # doctest: +SKIP

    Args:
        params: Parameters or groups.
        pairs: The pairs by module name.
        lr: Learning rate. In "full" mode that of full fine-tuning, some 1e-5 to 5e-5; in
            "efficient" mode that of LoRA.
        weight_decay: Decoupled: A *= 1 - lr weight_decay, and the same for B; it decays B A at
            twice the rate. Published: none.
        options: Fields of `LoraPro`.

    Raises:
        MethodError: An option is out of its range; or see `PairOptimizer`.
    """

    def __init__(
        self,
        params: Any,
        pairs: Mapping[str, Pair],
        *,
        lr: float = 2e-4,
        weight_decay: float = 0.0,
        **options: Any,
    ) -> None:
        self.options = LoraPro(**options)
        super().__init__(
            params,
            pairs,
            {"lr": lr, "betas": self.options.betas, "weight_decay": weight_decay},
            adamw_eps=self.options.eps,
        )

    def step_pairs(self, batches: list[PairBatch]) -> None:
        """See `PairOptimizer.step_pairs`."""
        gradients = [batch.gradients() for batch in batches]
        adjusted = self._adjusted(batches, gradients)
        self._clip(gradients, adjusted)
        if self.options.mode == "efficient":
            self._step_factors(batches, adjusted)
            return
        updates = [self._step_weights(*parts) for parts in zip(batches, adjusted, strict=True)]
        for batch, directions in zip(batches, self._adjusted(batches, updates), strict=True):
            batch.move(*directions)

    def _adjusted(self, batches: list[PairBatch], gradients: list[Sides]) -> list[Sides]:
        """(gA, gB) of every batch; the small matrices of one rank and device in one go."""
        options = self.options
        sides = [(*batch.factors(), *g) for batch, g in zip(batches, gradients, strict=True)]
        small = [grams(A, B, hB) for A, B, _, hB in sides]
        adjusted = list(gradients)
        for alike in _alike([S.SA for S in small]):
            found = coefficients(
                Grams(*(torch.cat(S) for S in zip(*(small[i] for i in alike), strict=True))),
                torch.cat([batches[i].scaling() for i in alike]),
                x_mode=options.x_mode,
                delta=options.delta,
                relative_delta=options.relative_delta,
            )
            sizes, dtype = [len(small[i].SA) for i in alike], small[alike[0]].SA.dtype
            parts = zip(*(torch.split(S.to(dtype), sizes) for S in found), strict=True)
            for i, by in zip(alike, parts, strict=True):
                adjusted[i] = combined(*sides[i], Coefficients(*by))
        return adjusted

    def _clip(self, gradients: list[Sides], adjusted: list[Sides]) -> None:
        """Scale all directions by one factor, where E over all pairs is longer than `max_norm`."""
        limit = self.options.max_norm
        if limit is None:
            return
        first = adjusted[0][0]
        squares = [
            equivalent_norm_sq(*raw, *found).sum().to(first)
            for raw, found in zip(gradients, adjusted, strict=True)
        ]
        factor = (limit / torch.stack(squares).sum().sqrt()).clamp(max=1.0)
        for directions in adjusted:
            for direction in directions:
                direction.mul_(factor.to(direction.device))

    # Efficient: AdamW on A and B -----------------------------------------------------------------

    def _step_factors(self, batches: list[PairBatch], adjusted: list[Sides]) -> None:
        raw = {}
        for batch, (gA, gB) in zip(batches, adjusted, strict=True):
            for pair, *directions in zip(batch.pairs, gA, gB, strict=True):
                for factor, direction in zip(pair, directions, strict=True):
                    raw[factor] = factor.grad
                    factor.grad = _like(factor, direction)
        self.adamw(raw)
        for factor, gradient in raw.items():
            factor.grad = gradient

    # Full: AdamW on W ----------------------------------------------------------------------------

    def _step_weights(self, batch: PairBatch, adjusted: Sides) -> Sides:
        """(s B^T U, s U A^T) of every pair of a batch."""
        A, B = batch.factors()
        updates = [
            self._step_weight(pair, batch.groups[0]["betas"], *tensors)
            for pair, *tensors in zip(batch.pairs, A, B, *adjusted, strict=True)
        ]
        through_A, through_B = zip(*updates, strict=True)
        return torch.stack(through_A), torch.stack(through_B)

    def _step_weight(
        self, pair: Pair, betas: tuple[float, float], A: Tensor, B: Tensor, gA: Tensor, gB: Tensor
    ) -> Sides:
        """Step the moments of one weight; s B^T U (r, in) and s U A^T (out, r) of its update U."""
        (b1, b2), s, options, shape = betas, pair.scaling, self.options, (len(B), A.shape[1])
        step, M, V = self._weight_state(pair, shape, A)
        draw = None if options.moments == "float32" else dither(step, *shape, A.device)
        counted = step + options.as_published
        left, right = s * torch.cat((B, gB), 1), torch.cat((gA, A))  # E = left right
        through_A, through_B = torch.zeros_like(A), torch.empty_like(B)
        for rows in row_blocks(*shape, A.device):
            E = left[rows] @ right
            m = M.read(rows, A.device).to(E.dtype).lerp_(E, 1 - b1)
            if options.as_published and step > 1:
                E = E.bfloat16().to(E.dtype)
            v = V.read(rows, A.device).to(E.dtype).mul_(b2).addcmul_(E, E, value=1 - b2)
            M.write(rows, m, draw)
            V.write(rows, v, draw)
            U = m.div_(1 - b1**counted).div_(v.div_(1 - b2**counted).sqrt_().add_(options.eps))
            through_A.addmm_(B[rows].T, U, alpha=s)
            torch.mm(U, A.T, out=through_B[rows])
        return through_A, through_B.mul_(s)

    def _weight_state(
        self, pair: Pair, shape: tuple[int, int], A: Tensor
    ) -> tuple[int, Moment, Moment]:
        """Number of this step of a pair, from 1, with M and V; they are kept under its A."""
        state = self.state[pair.A]
        if not state:
            state["step"] = torch.tensor(0)
            for name, signed in ((_M, True), (_V, False)):
                moment = Moment.zeros(
                    *(shape, self.options.moments),
                    signed=signed,
                    dtype=compute_dtype(A),
                    device=self._home(A.device),
                )
                state[name] = moment.values
                if moment.scales is not None:
                    state[name + _SCALES] = moment.scales
        state["step"] += 1
        M, V = (Moment(state[name], state.get(name + _SCALES)) for name in (_M, _V))
        return int(state["step"]), M, V

    def placed(self, key: str, value: Any, parameter: torch.nn.Parameter) -> Any:
        """See `PairOptimizer.placed`; moments that are kept on the host never leave it."""
        if not key.startswith((_M, _V)):
            return super().placed(key, value, parameter)
        return on(self._home(parameter.device), value)

    def _home(self, device: torch.device) -> torch.device:
        """Where the moments of weights are kept."""
        return torch.device("cpu") if self.options.moments_on_host else device


def _like(factor: Tensor, direction: Tensor) -> Tensor:
    """A direction in the shape of its factor; 0 for the ranks of a stack that are not in use."""
    if direction.numel() != factor.numel():
        rows, columns = (n - m for n, m in zip(factor.shape, direction.shape, strict=True))
        direction = torch.nn.functional.pad(direction, (0, columns, 0, rows))
    return direction.view_as(factor).to(factor.dtype)


def _alike(small: list[Tensor]) -> list[list[int]]:
    """Indices of the tensors that can be computed in one stack: of one rank, device and dtype."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, S in enumerate(small):
        groups.setdefault((S.shape[-1], S.device, S.dtype), []).append(i)
    return list(groups.values())
