"""The hypergradient of one unrolled lower step, for any lower parameters V and upper parameters m.

The lower step is V1 = V0 - xi u(g), g = grad_V L_tr(V0, m), u the optimizer's update. With

    v = grad_V L_val(V1, m),    d = grad_m L_val(V1, m),    w = xi J v,    J = du/dg (diagonal)

the hypergradient is

    h = d - (dg/dm)^T w

`fd_forward` and `fd_central` take the product from finite differences of grad_m L_tr along w, with
eps = R0 / |w| over all lower parameters together, of the whole lower batch or of some of its rows,
drawn anew for every upper step; `exact` takes it from autograd; `first_order` leaves it out;
`betty` is what the published BiDoRA code computes.

Liu et al., "DARTS", arXiv 1806.09055 (section 2.3); Qin et al., "BiDoRA", arXiv 2410.09758.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from rankwright.core.batch import MicroBatch, number_of_rows
from rankwright.core.run import Run
from rankwright.core.slots import UPPER
from rankwright.errors import MethodError, TrainingError
from rankwright.kernels.fused_linear import plain_layers
from rankwright.layers.frozen import held_constant
from rankwright.procedures.bilevel.jacobians import update_jacobian
from rankwright.procedures.bilevel.tensor_lists import (
    clones,
    global_norm,
    gradients_of,
    restored,
    wide_dtype,
    widened,
    write,
)

Mode = Literal["fd_forward", "fd_central", "exact", "first_order", "betty"]

WHOLE_PASSES: dict[Mode, int] = {
    "fd_forward": 2,
    "fd_central": 3,
    "exact": 3,
    "first_order": 1,
    "betty": 3,
}
"""Mode -> passes of an upper step beside the lower one: the held-out batch, then the implicit term;
without the latter where the learning rate is 0. See `extra_passes`."""
MODES: tuple[Mode, ...] = get_args(Mode)
FINITE_DIFFERENCES: frozenset[Mode] = frozenset({"fd_forward", "fd_central", "betty"})
UNROLLED: frozenset[Mode] = frozenset({"fd_forward", "fd_central", "exact"})
"""Modes that go through the optimizer's Jacobian."""

RADIUS = 0.01  # R0 in float32 and float64: truncation error 1e-4 relative, measured
RADIUS_HALF = 0.1  # in bfloat16 rounding dominates: 22 % error at 0.01, 2.7 % at 0.1, measured


@dataclass(frozen=True)
class LowerStep:
    """What must be noted between the backward and the optimizer step.

    Attributes:
        before: V0, one tensor a lower parameter; empty where the mode does not return to V0.
        upper_grads: grad_m L_tr(V0, m), which the lower backward leaves in `.grad`: these tensors
            themselves, so nobody else may write to them; empty where the mode has no use for them.
        grad_norm: |g| over all lower parameters, before clipping.
    """

    before: list[Tensor]
    upper_grads: list[Tensor]
    grad_norm: Tensor


@dataclass(frozen=True)
class Estimate:
    """A hypergradient.

    Attributes:
        gradient: h, one tensor an upper parameter, float32 or wider.
        upper_loss: L_val(V1, m) on this process.
        direct_norm: |d|.
        implicit_norm: |h - d|.
    """

    gradient: list[Tensor]
    upper_loss: float
    direct_norm: float
    implicit_norm: float


class Hypergradient:
    """Computes h around every lower step.

    Gradient clipping: g in J is the gradient as the optimizer saw it, and w goes through the
    Jacobian of clipping by the global norm over the lower parameters, c (I - g g^T / |g|^2) with
    c = |clipped g| / |g|. Other kinds of clipping are not accounted for.

    The lower batches are evaluated again under their own random state: with what penalties add for
    their outputs, without what they add for the parameters. A penalty of the upper level enters d;
    one that mixes lower and upper parameters is not supported.

    Args:
        run: The run; its optimizer is built.
        lower: V.
        upper: m.
        mode: See the module's docstring.
        fd_radius: R0; None for 0.01, or 0.1 where the adapted layers compute in half precision.
        fd_share: Share of the rows of every lower micro-batch on which a finite difference is
            taken, rounded down, at least one row. Below 1 both sides have to be evaluated, on the
            same rows and under the same random state, so `fd_forward` is central as well.
        xi: Step length in w; None for each parameter's present learning rate.

    Raises:
        MethodError: The mode needs J, and the optimizer's is not known.
    """

    def __init__(
        self,
        run: Run,
        lower: Sequence[nn.Parameter],
        upper: Sequence[nn.Parameter],
        mode: Mode = "fd_forward",
        *,
        fd_radius: float | None = None,
        fd_share: float = 1.0,
        xi: float | None = None,
    ) -> None:
        self.run = run
        self.lower = list(lower)
        self.upper = list(upper)
        self.mode = mode
        self.xi = xi
        self.fd_radius = fd_radius
        self.fd_share = fd_share
        if mode in UNROLLED:
            update_jacobian(run.optimizer)

    def record(self) -> LowerStep:
        """Call after the lower backward, before clipping and before the optimizer's step."""
        return LowerStep(
            before=clones(self.lower) if self.mode in UNROLLED else [],
            upper_grads=gradients_of(self.upper) if self._one_sided else [],
            grad_norm=global_norm(gradients_of(self.lower)),
        )

    @property
    def _one_sided(self) -> bool:
        return self.mode == "fd_forward" and self.fd_share == 1

    def __call__(self, step: LowerStep, held_out: Sequence[MicroBatch]) -> Estimate:
        """The hypergradient; call after the optimizer's step, its gradients still in place.

        Parameters, gradients and the global random state are left as they were.

        Args:
            step: What `record` returned.
            held_out: The batch of the upper loss.

        Raises:
            TrainingError: The direction w or the hypergradient is not finite.
        """
        with self._observing_precision():
            grads = self.run.gradients([*self.lower, *self.upper], held_out)
        upper_loss = self.run.last_loss
        v, direct = grads[: len(self.lower)], self._with_penalty(grads[len(self.lower) :])
        w = self._along(step, v)
        del v, grads  # not kept through the passes to come: they are as large as the adapter
        implicit = self._implicit(step, w)
        gradient = torch._foreach_sub(direct, implicit)
        self._check_finite(global_norm(gradient), "the hypergradient")
        return Estimate(
            gradient=list(gradient),
            upper_loss=upper_loss,
            direct_norm=float(global_norm(direct)),
            implicit_norm=float(global_norm(implicit)),
        )

    def _with_penalty(self, direct: list[Tensor]) -> list[Tensor]:
        """Add the gradient of the upper level's penalty, which has no lower parameters."""
        penalty = self.run.penalty(UPPER)
        if penalty is None:
            return widened(direct)
        own = torch.autograd.grad(penalty, self.upper, materialize_grads=True)
        return list(torch._foreach_add(widened(direct), widened(own)))

    # The implicit term ---------------------------------------------------------------------------

    def _along(self, step: LowerStep, v: list[Tensor]) -> list[Tensor]:
        """What (dg/dm)^T is multiplied with: w, or v for `betty`; empty in `first_order`."""
        if self.mode == "first_order":
            return []
        return widened(v) if self.mode == "betty" else self.direction(step, v)

    def _implicit(self, step: LowerStep, w: list[Tensor]) -> list[Tensor]:
        if not w:
            return self._zeros()
        norm = float(global_norm(w))
        self._check_finite(norm, "the direction of the hypergradient")
        if norm == 0:  # learning rate 0 at the first step of a warm-up, say
            return self._zeros()
        if self.mode == "exact":
            return self._autograd_product(step, w)
        return self._finite_difference(step, w, norm)

    def direction(self, step: LowerStep, v: Sequence[Tensor]) -> list[Tensor]:
        """The direction w = xi J v; where gradients were clipped, through the Jacobian of that too.

        Args:
            step: What `record` returned.
            v: Gradient of the upper loss, one tensor a lower parameter.

        Returns:
            One tensor a lower parameter, float32 or wider.
        """
        jacobian, states = update_jacobian(self.run.optimizer), self.run.optimizer_state()
        place = {id(parameter): i for i, parameter in enumerate(self.lower)}
        w = [torch.zeros_like(part, dtype=wide_dtype(part)) for part in v]
        for group in self.run.optimizer.param_groups:
            # without a gradient the optimizer left a parameter alone
            moved = [p for p in group["params"] if id(p) in place and p.grad is not None]
            if not moved:
                continue
            places = [place[id(p)] for p in moved]
            gradients, before = gradients_of(moved), [step.before[i] for i in places]
            J = jacobian(group, [states.get(p, {}) for p in moved], gradients, before)
            rate = float(group["lr"]) if self.xi is None else self.xi
            moves = torch._foreach_mul(widened([v[i] for i in places]), J)
            torch._foreach_mul_(moves, rate)
            for i, move in zip(places, moves, strict=True):
                w[i] = move
        return self._through_clipping(step, w)

    def _through_clipping(self, step: LowerStep, w: list[Tensor]) -> list[Tensor]:
        g = widened(gradients_of(self.lower))
        norm = global_norm(g)
        c = norm / step.grad_norm
        if not c < 1 - 1e-6:  # not clipped: then the two norms are the same bits
            return w
        along = torch.stack([ab.sum() for ab in torch._foreach_mul(g, w)]).sum() / norm**2
        torch._foreach_sub_(w, torch._foreach_mul(g, along))
        torch._foreach_mul_(w, c)
        return w

    def _finite_difference(self, step: LowerStep, w: list[Tensor], norm: float) -> list[Tensor]:
        assert self.fd_radius is not None
        eps = self.fd_radius / (norm + 1e-15 if self.mode == "betty" else norm)
        batches = self._lower_batches()
        with restored(self.lower) as present:
            centre = present if self.mode == "betty" else step.before
            plus = self._upper_grads_at(centre, w, eps, batches)
            if self._one_sided:
                minus, width = widened(step.upper_grads), eps
            else:
                minus, width = self._upper_grads_at(centre, w, -eps, batches), 2 * eps
        return list(torch._foreach_div(torch._foreach_sub(plus, minus), width))

    def _lower_batches(self) -> list[MicroBatch]:
        """The lower batches of the step, or some rows of each: a pure function of seed and step."""
        run = self.run
        if self.fd_share == 1:
            return run.micro_batches
        totals = [number_of_rows(batch.inputs) for batch in run.micro_batches]
        if max(totals) == 1:
            run.say_once(
                f"fd_share={self.fd_share}, but micro-batches have one row: both sides of the "
                "difference are taken on it, which costs more than fd_share=1"
            )
        draw = run.generator("rows of the difference", run.step)
        return [
            run.some_rows(batch, drawn_rows(total, self.fd_share, draw))
            for batch, total in zip(run.micro_batches, totals, strict=True)
        ]

    def _upper_grads_at(
        self, centre: list[Tensor], w: list[Tensor], eps: float, batches: list[MicroBatch]
    ) -> list[Tensor]:
        """grad_m L_tr at `centre + eps w`; the sum is formed in w's precision, rounded once."""
        write(self.lower, torch._foreach_add(widened(centre), w, alpha=eps))
        with held_constant(self.run.model, self.run.adapter_name, self.lower):
            return widened(self.run.gradients(self.upper, batches))

    def _autograd_product(self, step: LowerStep, w: list[Tensor]) -> list[Tensor]:
        """grad_m <grad_V L_tr(V0, m), w>; only plain operations have a second derivative."""
        with restored(self.lower), _twice_differentiable():
            write(self.lower, step.before)
            grads = self.run.gradients(self.lower, self.run.micro_batches, create_graph=True)
            terms = [
                (grad * part).sum()
                for grad, part in zip(grads, w, strict=True)
                if grad.requires_grad
            ]
            mixed = (
                torch.autograd.grad(torch.stack(terms).sum(), self.upper, materialize_grads=True)
                if terms
                else self._zeros()
            )
        self.run.count_pass()
        return self.run.average(widened(mixed))

    def _zeros(self) -> list[Tensor]:
        return [
            torch.zeros_like(parameter, dtype=wide_dtype(parameter)) for parameter in self.upper
        ]

    # Checks --------------------------------------------------------------------------------------

    def _check_finite(self, norm: float | Tensor, what: str) -> None:
        if not torch.isfinite(torch.as_tensor(norm)):
            raise TrainingError(
                f"the norm of {what} at step {self.run.step} is {float(norm)}; lower the learning "
                'rates, or use hypergradient="first_order"'
            )

    @contextlib.contextmanager
    def _observing_precision(self) -> Iterator[None]:
        """Choose R0, once, by what the adapted layers put out: it shows autocast as well."""
        if self.fd_radius is not None or self.mode not in FINITE_DIFFERENCES:
            yield
            return
        seen = {parameter.dtype for parameter in self.lower}

        def note(_layer: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                seen.add(output.dtype)

        handles = [layer.register_forward_hook(note) for layer in self.run.layers.values()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        half = any(torch.finfo(dtype).bits < 32 for dtype in seen)
        self.fd_radius = RADIUS_HALF if half else RADIUS


def extra_passes(mode: Mode, fd_share: float = 1.0) -> float:
    """Passes of an upper step beside the lower one, over a whole batch each."""
    taken_apart = mode in FINITE_DIFFERENCES and fd_share < 1
    return 1 + 2 * fd_share if taken_apart else WHOLE_PASSES[mode]


def drawn_rows(total: int, share: float, draw: torch.Generator) -> Tensor:
    """Indices of a share of the rows, rounded down but at least one, all sets equally likely."""
    wanted = max(1, math.floor(share * total + 1e-9))  # 0.3 of 10 rows is 3, not 2
    return torch.randperm(total, generator=draw)[:wanted]


@contextlib.contextmanager
def _twice_differentiable() -> Iterator[None]:
    """Compute attention and adapted layers with operations that can be differentiated twice.

    Raises:
        MethodError: Another function in the loss has no second derivative.
    """
    try:
        with sdpa_kernel(SDPBackend.MATH), plain_layers():
            yield
    except RuntimeError as error:
        if "differentia" not in str(error) and "derivative for" not in str(error):
            raise
        raise MethodError(
            'hypergradient="exact" differentiates the loss twice, but a function in it can be '
            f"differentiated only once ({error}), such as TRL's chunked cross entropy; use "
            '"fd_forward" or "fd_central"'
        ) from error


# The optimizer's Jacobian ------------------------------------------------------------------------


# Lists of tensors --------------------------------------------------------------------------------
