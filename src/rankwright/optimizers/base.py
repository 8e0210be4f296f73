"""The base of optimizers that move the two factors of a layer together.

A subclass says what happens to the pairs (`step_pairs`). All else that it was given (heads, norms,
magnitudes, gates, biases) goes to AdamW in the same object: one optimizer, one state dict.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self, overload

import torch
from torch import Tensor, nn

from rankwright.algebra.precision import compute_dtype
from rankwright.core.parameter_groups import decays
from rankwright.errors import MethodError, TrainingError
from rankwright.optimizers.pairs import Pair, named_pairs

Group = dict[str, Any]
"""A parameter group: `params`, `lr`, `weight_decay`, `betas`, ..., and `role` where it has one."""

BATCH_NUMBERS = {"cpu": 1 << 16, "cuda": 1 << 26}
"""Numbers of one factor in a stack, at most. A CPU computes fastest on what its cache holds, a GPU
on few large products."""


@dataclass(frozen=True, eq=False)
class PairBatch:
    """Pairs of one shape, device, dtype and parameter group, all with a gradient now.

    Attributes:
        pairs: n pairs.
        groups: The parameter group of every A, and that of every B.
    """

    pairs: Sequence[Pair]
    groups: tuple[Group, Group]

    @cached_property
    def As(self) -> list[nn.Parameter]:  # noqa: N802
        """The n parameters A."""
        return [pair.A for pair in self.pairs]

    @cached_property
    def Bs(self) -> list[nn.Parameter]:  # noqa: N802
        """The n parameters B."""
        return [pair.B for pair in self.pairs]

    @property
    def features(self) -> tuple[int, int]:
        """The lengths (in, out)."""
        return self.As[0].numel() // len(self.As[0]), len(self.Bs[0])

    @cached_property
    def views(self) -> tuple[list[Tensor], list[Tensor]]:
        """Every A (r, in) and every B (out, r), to be written in place."""
        As = [pair.view_A(pair.A) for pair in self.pairs]
        return As, [pair.view_B(pair.B) for pair in self.pairs]

    @cached_property
    def gradient_views(self) -> tuple[list[Tensor], list[Tensor]]:
        """Every dL/dA (r, in) and every dL/dB (out, r)."""
        dAs = [pair.view_A(pair.A.grad) for pair in self.pairs if pair.A.grad is not None]
        return dAs, [pair.view_B(pair.B.grad) for pair in self.pairs if pair.B.grad is not None]

    def factors(self) -> tuple[Tensor, Tensor]:
        """A (n, r, in) and B (n, out, r), float32 at least; do not write to them."""
        As, Bs = self.views
        return stacked(As), stacked(Bs)

    def gradients(self) -> tuple[Tensor, Tensor]:
        """dL/dA (n, r, in) and dL/dB (n, out, r), float32 at least; do not write to them."""
        dAs, dBs = self.gradient_views
        return stacked(dAs), stacked(dBs)

    def scaling(self) -> Tensor:
        """The factor s of every pair, (n, 1, 1), float64."""
        s = torch.tensor([pair.scaling for pair in self.pairs], dtype=torch.float64)
        return s.view(-1, 1, 1).to(self.pairs[0].A.device, non_blocking=True)

    def move(self, dA: Tensor, dB: Tensor) -> None:
        """A <- A - lr (dA + wd A) and the same for B, each with its own group's lr and wd.

        Args:
            dA: (n, r, in).
            dB: (n, out, r).
        """
        for factors, group, change in zip(self.views, self.groups, (dA, dB), strict=True):
            lr, decay = group["lr"], group["weight_decay"]
            if decay:
                torch._foreach_mul_(factors, 1 - lr * decay)
            torch._foreach_add_(factors, change.unbind(), alpha=-lr)


class PairOptimizer(torch.optim.Optimizer, ABC):
    """An ordinary `torch.optim.Optimizer` whose pairs move together.

    The state is a dict of tensors a parameter, like AdamW's: `torch.load(weights_only=True)` reads
    it, and dropping a parameter's entry makes the optimizer forget it.

    Attributes:
        owns_clipping: An engine must not clip the gradients before `step`: scaling the raw
            gradient of a pair changes its step in a way that depends on how B A is factored.

    Args:
        params: Parameters or groups, as torch takes them.
        pairs: The pairs by module name. Those that `params` does not have are left alone.
        defaults: What a group does not say itself; `lr`, `betas`, `weight_decay` and more.
        adamw_eps: Epsilon of AdamW on everything that is no pair.

    Raises:
        MethodError: `params` has one factor of a pair without the other, or no pair at all.
    """

    owns_clipping: ClassVar[bool] = True

    def __init__(
        self, params: Any, pairs: Mapping[str, Pair], defaults: Group, *, adamw_eps: float = 1e-8
    ) -> None:
        super().__init__(params, {**defaults, "adamw_eps": adamw_eps})
        held = {id(p) for group in self.param_groups for p in group["params"]}
        for pair in pairs.values():
            if (id(pair.A) in held) != (id(pair.B) in held):
                trained, other = ("A", "B") if id(pair.A) in held else ("B", "A")
                raise MethodError(
                    f"{type(self).__name__} moves A and B together, but of {pair.name} only "
                    f"{trained} is trained; train {other} too, or use another optimizer"
                )
        self.pairs = {name: pair for name, pair in pairs.items() if id(pair.A) in held}
        if not self.pairs:
            raise MethodError(
                f"{type(self).__name__} was given the factors of no adapted layer; pass the "
                "parameters of the adapted model"
            )
        self._adamw = torch.optim.AdamW([{"params": []}])

    @classmethod
    def for_model(
        cls,
        model: nn.Module,
        *,
        weight_decay: float = 0.0,
        adapter_name: str = "default",
        **options: Any,
    ) -> Self:
        """The optimizer of everything in a PEFT model that requires a gradient.

        Args:
            model: The adapted model, without a wrapper.
            weight_decay: Decoupled weight decay of the matrices; biases, norms and magnitudes have
                none.
            adapter_name: Name of the adapter.
            options: `lr` and what else the optimizer takes.
        """
        groups: dict[bool, Group] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                decayed = decays(name, parameter)
                group = {"params": [], "weight_decay": weight_decay if decayed else 0.0}
                groups.setdefault(decayed, group)["params"].append(parameter)
        return cls(list(groups.values()), pairs=named_pairs(model, adapter_name), **options)

    @abstractmethod
    def step_pairs(self, batches: list[PairBatch]) -> None:
        """Move the pairs that have a gradient."""

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One optimizer step.

        Args:
            closure: Computes the loss and its gradients anew.

        Raises:
            TrainingError: One factor of a pair has a gradient and the other has none.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        batches = self._batches()
        if batches:
            self.step_pairs(batches)
        paired = {id(factor) for pair in self.pairs.values() for factor in pair}
        self.adamw(p for g in self.param_groups for p in g["params"] if id(p) not in paired)
        return loss

    def adamw(self, parameters: Iterable[nn.Parameter]) -> None:
        """One step of AdamW on some of the parameters, each under its own group's options."""
        chosen = {id(parameter) for parameter in parameters}
        # The state is one dict: what AdamW keeps is loaded, saved and forgotten like the rest.
        self._adamw.state = self.state
        self._adamw.param_groups = [
            {
                **self._adamw.defaults,
                **{key: group[key] for key in ("lr", "betas", "weight_decay")},
                "eps": group["adamw_eps"],
                "params": [p for p in group["params"] if id(p) in chosen],
            }
            for group in self.param_groups
        ]
        self._adamw.step()

    def moments(
        self, parameters: Sequence[nn.Parameter], key: str, shape: torch.Size, dtype: torch.dtype
    ) -> Tensor:
        """State `key` of some parameters in one stack (n, *shape).

        Zero where a parameter has none yet, or has one of another rank: a round of a chain may
        differ from the last one in rank. Do not write to it.
        """
        found = []
        for parameter in parameters:
            state = self.state[parameter]
            if key not in state or state[key].shape != shape:
                state[key] = torch.zeros(shape, dtype=dtype, device=parameter.device)
            found.append(state[key])
        return found[0].unsqueeze(0) if len(found) == 1 else torch.stack(found)

    def keep(self, parameters: Sequence[nn.Parameter], key: str, values: Tensor) -> None:
        """Write a stack (n, ...) back to the state of its parameters."""
        if len(parameters) == 1:
            self.state[parameters[0]][key] = values[0]
        else:
            torch._foreach_copy_([self.state[p][key] for p in parameters], list(values.unbind()))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, but every tensor keeps its dtype.

        torch casts state to the dtype of its parameter, which would round float64 moments.
        """
        super().load_state_dict({**state_dict, "state": {}})
        groups = zip(state_dict["param_groups"], self.param_groups, strict=True)
        for saved, group in groups:
            for number, parameter in zip(saved["params"], group["params"], strict=True):
                for key, value in state_dict["state"].get(number, {}).items():
                    self.state[parameter][key] = self.placed(key, value, parameter)

    def placed(self, key: str, value: Any, parameter: nn.Parameter) -> Any:
        """A loaded piece of state where it is kept: beside its parameter, counts on the CPU."""
        if not isinstance(value, Tensor) or key == "step":
            return value
        return value.to(parameter.device)

    def _batches(self) -> list[PairBatch]:
        """The pairs with a gradient, those that can be computed in one stack together."""
        groups = {id(p): group for group in self.param_groups for p in group["params"]}
        alike: dict[tuple[object, ...], list[Pair]] = {}
        for pair in self.pairs.values():
            if self._has_gradient(pair, groups):
                of = (groups[id(pair.A)], groups[id(pair.B)])
                kinds = ((f.shape, f.dtype, f.device) for f in pair)
                alike.setdefault((*map(id, of), *kinds, pair.rank), []).append(pair)
        return [
            PairBatch(part, (groups[id(part[0].A)], groups[id(part[0].B)]))
            for pairs in alike.values()
            for part in _parts(pairs)
        ]

    def _has_gradient(self, pair: Pair, groups: Mapping[int, Group]) -> bool:
        have = [factor.grad is not None for factor in pair]
        if any(have) and not all(have):
            raise TrainingError(
                f"{type(self).__name__} moves A and B together, but of {pair.name} only "
                f"{'A' if have[0] else 'B'} has a gradient; train both or neither"
            )
        if not all(id(factor) in groups for factor in pair):
            raise TrainingError(
                f"the parameters of {pair.name} were replaced after {type(self).__name__} was "
                "built (a sharded model, say); it needs whole factors on the process that steps"
            )
        return all(have)


def stacked(matrices: Sequence[Tensor]) -> Tensor:
    """Matrices of one shape as (n, rows, columns), float32 at least; one alone may be a view."""
    dtype = compute_dtype(*matrices[:1])
    if len(matrices) == 1:
        return matrices[0].to(dtype).unsqueeze(0)
    return torch.stack(list(matrices)).to(dtype)


def _parts(pairs: Sequence[Pair]) -> Iterable[Sequence[Pair]]:
    A, B = pairs[0]
    limit = BATCH_NUMBERS["cpu" if A.device.type == "cpu" else "cuda"]
    size = max(1, limit // max(A.numel(), B.numel()))
    return (pairs[start : start + size] for start in range(0, len(pairs), size))
