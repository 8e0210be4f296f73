r"""LoRA-RITE: steps of W that do not depend on how the update is factored into B and A.

Yen et al., "LoRA Done RITE: Robust Invariant Transformation Equilibration for LoRA Optimization",
ICLR 2025, arXiv 2410.20625. With W + s B A, A (r, in), B (out, r), and B = U_B R_B, U_B^T U_B = I:

    g_A = (dL/dA)^T R_B^+                                   (in, r), without the size of B
    V~_A = P V_A P^T,    P = U_B(t)^T U_B(t-1)              (r, r), moved to the present basis
    V_A = b2 V~_A + (1 - b2) g_A^T g_A / in
    M_A = b1 M_A P^T + (1 - b1) g_A (V_A + rho_A I)^(-1/2)  (in, r)
    A <- A - lr (R_B^+ M_A^T + wd A)

and the same for B with A^T in the place of B. b(t) = b (1 - b^(t-1)) / (1 - b^t). Every choice of
basis gives the same A and B. Here S = B^T B = Q diag(l) Q^T, E = Q diag(l)^(-1/2), U_B = B E and
R_B^+ = E, with 0 in E where l is 0: a direction that B does not have gets no step. Kept are

    N_A = E M_A^T  (r, in),    K_A = E V_A E^T  (r, r),    C_B = B(t+1)^T B(t)  (r, r)

in the coordinates of the factor, so that no basis has to be: P = E^T C_B E(t-1), and

    N_A <- b1 E E^T C_B N_A + (1 - b1) E (V_A + rho_A I)^(-1/2) E^T dL/dA.

Ours: eigenvalues of V_A that are rounding get no step, and c <= 1 on N_A and N_B of a pair keeps

    |c^2 lr^2 N_B N_A| <= second_order |c lr (B N_A + N_B A)|,

since the second order of a step, which the derivation neglects, is otherwise without limit where a
factor is almost of lower rank.

All r x r algebra is in float64, for every pair of one rank at once, and nothing is read back to
the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from rankwright.algebra.precision import compute_dtype
from rankwright.core.fields import check_field
from rankwright.core.part_registry import register_part
from rankwright.core.run import Run
from rankwright.core.slots import OptimizerPart
from rankwright.optimizers.base import PairBatch, PairOptimizer
from rankwright.optimizers.pairs import Pair, named_pairs

Sides = tuple[Tensor, Tensor]
"""The same of A and of B, or of the A side and the B side, of every pair of a batch."""


@register_part("lora_rite")
@dataclass(frozen=True, kw_only=True)
class LoraRite(OptimizerPart):
    """LoRA-RITE: steps of W that do not depend on how its update is factored.

    "Published" is the code at gkevinyen5418/LoRA-RITE@c9bb451.

    Attributes:
        betas: Decay of the first and second moment; (0.9, 0.999) (published).
        eps: Added to the root of every eigenvalue of V, on the scale of g; 1e-6 (published).
        clip: Largest norm of all g together, to which larger ones are scaled; 1 (published), 0:
            none. The engine's own clipping is switched off.
        skip: Largest root mean square of the g of a factor: with a larger one, as always with NaN
            or Inf, the factor counts as having no gradient in the step. 1 (published), 0: no limit.
        cap: Largest root mean square of M in a step; the state is not capped. 0: no limit
            (published).
        escape: Compensate for the part of V that a change of basis loses, rho; off (published code;
            on in the paper).
        balance: After the step, scale A and B to equal norm; B A stays what it is. Off (published).
        rcond: Singular values of a factor below this share of its largest count as zero: the factor
            does not have their direction. None: sqrt(r u), u being the rounding unit of the
            products (1.4e-3 at r = 16 in float32); smaller ones are rounding.
        second_order: Largest norm of lr^2 N_B N_A over that of lr (B N_A + N_B A), to which both
            moments of a pair are scaled in a step; the state is not. 3 (ours), 0: no limit
            (published).
    """

    elementwise: ClassVar[bool] = False

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-6
    clip: float = 1.0
    skip: float = 1.0
    cap: float = 0.0
    escape: bool = False
    balance: bool = False
    rcond: float | None = None
    second_order: float = 3.0

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            MethodError: One is out of its range.
        """
        valid = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        check_field(self, "betas", valid, "two numbers in [0, 1)")
        check_field(self, "eps", self.eps > 0, "a number above 0")
        for name in ("clip", "skip", "cap", "second_order"):
            check_field(self, name, getattr(self, name) >= 0, "a number above 0, or 0 for none")
        share = self.rcond is None or 0 <= self.rcond < 1
        check_field(self, "rcond", share, "None or a number in [0, 1)")

    def build(self, run: Run, groups: list[dict[str, Any]]) -> LoraRiteOptimizer:
        """See `OptimizerPart.build`."""
        return LoraRiteOptimizer(groups, named_pairs(run.layers, run.adapter_name), **vars(self))


class LoraRiteOptimizer(PairOptimizer):
    """LoRA-RITE in any training loop.

    Example:
        >>> optimizer = LoraRiteOptimizer.for_model(model, lr=1e-3)  # doctest: +SKIP
        >>> loss.backward()  # doctest: +SKIP
        >>> optimizer.step()  # do not clip before it  # doctest: +SKIP

    Args:
        params: Parameters or groups; what belongs to no pair gets AdamW.
        pairs: `named_pairs(model)`.
        lr: Learning rate. From B = 0, the first step adds r singular values lr s sqrt(out) to W.
        weight_decay: Decoupled weight decay.
        options: Fields of `LoraRite`.

    Raises:
        MethodError: An option is out of its range; or see `PairOptimizer`.
    """

    def __init__(
        self,
        params: Any,
        pairs: Mapping[str, Pair],
        *,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        **options: Any,
    ) -> None:
        self.options = LoraRite(**options)
        defaults = {"lr": lr, "weight_decay": weight_decay, "betas": self.options.betas}
        super().__init__(params, pairs, defaults)

    def skipped(self) -> dict[str, int]:
        """Module name -> how often a gradient of A or B was left out (`skip`, NaN, Inf)."""
        counts = {
            name: sum(int(self.state[p]["skipped"]) for p in pair if p in self.state)
            for name, pair in self.pairs.items()
        }
        return {name: count for name, count in counts.items() if count}

    def step_pairs(self, batches: list[PairBatch]) -> None:
        """See `PairOptimizer.step_pairs`."""
        alike: dict[tuple[object, ...], list[PairBatch]] = {}
        for batch in batches:
            first = batch.pairs[0]
            alike.setdefault((first.rank, first.A.device, first.A.dtype), []).append(batch)
        sides = [_Sides(self, members) for members in alike.values()]
        if self.options.clip:
            device = sides[0].norm_sq.device
            total = torch.stack([side.norm_sq.sum().to(device) for side in sides]).sum().sqrt()
            factor = (self.options.clip / total).clamp(max=1.0)
            for side in sides:
                side.scale = side.scale * factor.to(side.scale.device)
        for side in sides:
            side.move(*side.transport())


class _Sides:
    """One step of all pairs of one rank: the A side of every pair, then the B side, (2 n, r, r).

    Attributes:
        t: Number of the step of each factor, from 1, (2 n,).
        S: Of the factor itself; `_swapped` gives that of the other factor of each pair.
        E: Of the other factor.
        kept: Whether the gradient is not skipped, (2 n, 1, 1).
        G: g^T g, 0 where it is skipped.
        norm_sq: |g|^2, 0 where it is skipped, (2 n, 1, 1).
        scale: Factor on g, 0 where it is skipped, (2 n, 1, 1).
    """

    def __init__(self, optimizer: LoraRiteOptimizer, batches: list[PairBatch]) -> None:
        self.optimizer, self.options, self.batches = optimizer, optimizer.options, batches
        self.parameters = [A for b in batches for A in b.As] + [B for b in batches for B in b.Bs]
        self.rank, self.dtype = batches[0].pairs[0].rank, compute_dtype(self.parameters[0])
        self.t = self._count()
        self.S, H = map(_joined, zip(*map(_products, batches), strict=True))
        self.E = inverse_root(_swapped(self.S), self._rcond())
        self.length = self._column(lambda batch, side: batch.features[side])
        G = self.E.mT @ H @ self.E
        norm_sq = trace(G)
        self.kept = norm_sq.isfinite()
        if self.options.skip:
            self.kept &= norm_sq <= self.options.skip**2 * self.length * self.rank
        self.G, self.norm_sq = G.where(self.kept, 0), norm_sq.where(self.kept, 0)
        self.scale = self.kept.to(G.dtype)
        self._keep("skipped", self._state("skipped") + (1 - self.scale.flatten()))

    def transport(self) -> tuple[Tensor, Tensor]:
        """Update the second moments.

        Returns:
            X and Y (2 n, r, r) of N <- X N + Y dL/dA.
        """
        square = (self.rank, self.rank)
        b1, b2 = self._betas()
        P = self.E.mT @ _swapped(self._state("overlap", *square))  # times E(t-1)
        V = P @ self._state("exp_avg_sq", *square) @ P.mT
        before = self._state("spectrum", self.rank)
        # P shortens vectors. Where S is almost singular its rounding does not, and V would explode.
        V = V * (before.sum(1).view_as(b2) / trace(V)).clamp(max=1).nan_to_num(1)
        rho = self._escaped(before, V, b2) if self.options.escape else 0
        V = b2 * V + (1 - b2) * self.scale.square() * self.G / self.length
        spectrum, Q = torch.linalg.eigh((V + V.mT) / 2)
        spectrum = spectrum.clamp(min=0)  # a g of lower rank leaves some of -1e-19
        self._keep("spectrum", spectrum)
        self._keep("exp_avg_sq", self.E @ V @ self.E.mT)
        EQ, of_V = self.E @ Q, spectrum[:, None] + rho
        # g is of the precision of the factors: where it has no direction, its rounding does.
        rounding = self.rank * torch.finfo(self.dtype).eps * of_V.amax(-1, keepdim=True)
        inverse_root = (of_V.sqrt() + self.options.eps).reciprocal().where(of_V > rounding, 0)
        return b1 * self.E @ P, (1 - b1) * self.scale * (EQ * inverse_root) @ EQ.mT

    def move(self, X: Tensor, Y: Tensor) -> None:
        """Update the first moments, step, and note the overlap of each factor with the last one."""
        X, Y, whole = X.to(self.dtype), Y.to(self.dtype), self._whole()
        lr, decay = self._each("lr"), self._each("weight_decay")
        N_times_factor = []
        for batch, a, b in self._places():
            (A, B), (dA, dB) = batch.factors(), batch.gradients()
            if not whole:  # NaN is taken out; no factor of 0 does that
                dA, dB = dA.where(self.kept[a], 0), dB.where(self.kept[b], 0)
            N_A = self.optimizer.moments(batch.As, "exp_avg", A.shape[1:], self.dtype)
            N_B = self.optimizer.moments(batch.Bs, "exp_avg", B.shape[1:], self.dtype)
            N_A = torch.bmm(Y[a], dA).baddbmm_(X[a], N_A)
            N_B = torch.bmm(dB, Y[b].mT).baddbmm_(N_B, X[b].mT)
            self.optimizer.keep(batch.As, "exp_avg", N_A)
            self.optimizer.keep(batch.Bs, "exp_avg", N_B)
            if self.options.cap:
                N_A = N_A * self._capped(a, N_A @ N_A.mT)
                N_B = N_B * self._capped(b, N_B.mT @ N_B)
            with_factor = torch.bmm(N_A, A.mT), torch.bmm(N_B.mT, B)
            if self.options.second_order:
                squares = N_A @ N_A.mT, N_B.mT @ N_B
                c = self._limited((lr[a], lr[b]), (self.S[a], self.S[b]), squares, with_factor)
                N_A, N_B = c * N_A, c * N_B
                with_factor = c * with_factor[0], c * with_factor[1]
            N_times_factor.append(with_factor)
            batch.move(N_A, N_B)
        overlap = (1 - lr * decay) * self.S - lr * _joined(N_times_factor)
        if self.options.balance:
            overlap *= _joined([_balance(batch) for batch in self.batches])
        self._keep("overlap", overlap)

    def _capped(self, side: slice, NN: Tensor) -> Tensor:
        """1 / max(1, rms(M) / cap), with |M|^2 = tr(S N N^T), S of the other factor."""
        norm_sq = trace(_swapped(self.S)[side] @ NN.to(self.S.dtype)).clamp(min=0)
        rms = (norm_sq / (self.length[side] * self.rank)).sqrt()
        return (self.options.cap / rms).clamp(max=1).to(self.dtype)

    def _limited(self, lr: Sides, S: Sides, squares: Sides, with_factor: Sides) -> Tensor:
        """Factor on N_A and N_B of every pair for `second_order`, (n, 1, 1).

        All norms are of (out, in) matrices, from r x r products: |N_B A|^2 = tr(N_B^T N_B A A^T).

        Args:
            lr: Learning rates, each (n, 1, 1).
            S: A A^T and B^T B; like all that follow (n, r, r).
            squares: N_A N_A^T and N_B^T N_B.
            with_factor: N_A A^T and N_B^T B.
        """
        (lr_A, lr_B), (AA, BB) = lr, S
        NN_A, NN_B = lr_A**2 * squares[0].double(), lr_B**2 * squares[1].double()
        NA, NB = lr_A * with_factor[0].double(), lr_B * with_factor[1].double()
        first = trace(NN_B @ AA) + trace(BB @ NN_A) + 2 * trace(NB @ NA)
        second = trace(NN_B @ NN_A)
        limit = (first.clamp(min=0) / second.clamp(min=0)).sqrt() * self.options.second_order
        return limit.nan_to_num(1).clamp(max=1).to(self.dtype)

    def _escaped(self, before: Tensor, V: Tensor, b2: Tensor) -> Tensor:
        """rho, from the eigenvalues before the change of basis and after it; (2 n, 1, 1)."""
        lost = before - torch.linalg.eigvalsh(V)
        most = torch.minimum(lost.amax(1).clamp(min=0), lost.sum(1).clamp(min=0))
        rho = b2.flatten() * (self._state("escaped") + most)
        self._keep("escaped", rho)
        return rho.view_as(b2)

    def _betas(self) -> tuple[Tensor, Tensor]:
        """b1(t) and b2(t), (2 n, 1, 1)."""
        t, betas = self.t.to(self.S.device).view(-1, 1, 1), self._each("betas")
        b1, b2 = betas[..., :1], betas[..., 1:]
        return b1 * (1 - b1 ** (t - 1)) / (1 - b1**t), b2 * (1 - b2 ** (t - 1)) / (1 - b2**t)

    def _count(self) -> Tensor:
        """The number of this step for every side, from 1, (2 n,); on the host, as AdamW's."""
        states = [self.optimizer.state[parameter] for parameter in self.parameters]
        for state in states:
            if "overlap" in state and len(state["overlap"]) != self.rank:  # a round of another rank
                state.clear()
            if not state:
                state["step"] = torch.tensor(0.0)
        steps: list[Tensor] = [state["step"] for state in states]
        torch._foreach_add_(steps, 1)
        return torch.stack(steps)

    def _whole(self) -> bool:
        """Whether no gradient is left out, if that can be told without waiting for the device."""
        return self.kept.device.type == "cpu" and bool(self.kept.all())

    def _rcond(self) -> float:
        rounding: float = (self.rank * torch.finfo(self.dtype).eps) ** 0.5  # of the root of S
        return rounding if self.options.rcond is None else self.options.rcond

    def _places(self) -> Iterator[tuple[PairBatch, slice, slice]]:
        """Every batch, with its A sides and its B sides among the 2 n."""
        start, n = 0, len(self.parameters) // 2
        for batch in self.batches:
            end = start + len(batch.pairs)
            yield batch, slice(start, end), slice(n + start, n + end)
            start = end

    def _each(self, option: str) -> Tensor:
        """An option of the parameter group of every side, (2 n, 1, 1); of `betas`, (2 n, 1, 2)."""
        return self._column(lambda batch, side: batch.groups[side][option])

    def _column(self, value: Callable[[PairBatch, int], Any]) -> Tensor:
        numbers = [value(b, side) for side in (0, 1) for b in self.batches for _ in b.pairs]
        return (
            torch.tensor(numbers, dtype=torch.float64).to(self.S.device).view(len(numbers), 1, -1)
        )

    def _state(self, key: str, *shape: int) -> Tensor:
        return self.optimizer.moments(self.parameters, key, torch.Size(shape), torch.float64)

    def _keep(self, key: str, values: Tensor) -> None:
        self.optimizer.keep(self.parameters, key, values)


def _products(batch: PairBatch) -> tuple[Sides, Sides]:
    """A A^T and B^T B, and the same of the gradients; (n, r, r)."""
    (A, B), (dA, dB) = batch.factors(), batch.gradients()
    return (
        (torch.bmm(A, A.mT), torch.bmm(B.mT, B)),
        (torch.bmm(dA, dA.mT), torch.bmm(dB.mT, dB)),
    )


def _joined(sides: Iterable[Sides]) -> Tensor:
    """The A sides of all batches, then the B sides; (2 n, ...), float64."""
    As, Bs = zip(*sides, strict=True)
    return torch.cat((*As, *Bs)).double()


def _swapped(sides: Tensor) -> Tensor:
    """The B side in the place of the A side, and the other way round."""
    return torch.cat(sides.chunk(2)[::-1])


def _balance(batch: PairBatch) -> Sides:
    """A <- c A, B <- B / c, c^2 = |B| / |A|, or c = 1 where one is zero; c and 1 / c, (n, 1, 1)."""
    As, Bs = batch.views
    A, B = (torch.stack(torch._foreach_norm(side)).double() for side in (As, Bs))
    c = torch.where((A > 0) & (B > 0), (B / A).sqrt(), 1)
    torch._foreach_mul_(As, list(c.to(As[0].dtype).unbind()))
    torch._foreach_div_(Bs, list(c.to(Bs[0].dtype).unbind()))
    c = c.view(-1, 1, 1)
    return c, 1 / c


def inverse_root(S: Tensor, rcond: float) -> Tensor:
    """E with E^T S E = 1 on the space of S, 0 elsewhere.

    Args:
        S: (n, r, r), symmetric and positive up to rounding.
        rcond: Roots of eigenvalues below this share of the largest root count as zero.

    Returns:
        (n, r, r).
    """
    spectrum, Q = torch.linalg.eigh(S)
    kept = spectrum > rcond**2 * spectrum.amax(-1, keepdim=True)
    root = torch.where(kept, spectrum, 1).rsqrt().where(kept, 0)
    E: Tensor = Q * root[:, None]
    return E


def trace(matrices: Tensor) -> Tensor:
    """Trace of each matrix, (n, 1, 1)."""
    return matrices.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
