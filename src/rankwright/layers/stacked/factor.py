"""A factor of a stack of boosters, and a base layer with some of the boosters added to its weight.

:mod:`.stacked` has the equations.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from rankwright.kernels.fused_linear import Factors
from rankwright.layers.factor import Factor


class StackedFactor(Factor):
    """One factor of a stack.

    Attributes:
        live: The booster's part, (r, in) for A and (out, r) for B: one `Parameter` for the whole
            run, so that optimizer and DistributedDataParallel keep hold of it.
        width: How many rows (A) or columns (B) of `live` are in use, its first ones: the rank of
            the booster where that differs from round to round. The others are not computed.
        history: The finished part, (R, in) or (out, R).
        selected: Whether the live part belongs to the stack.
        paired: Whether the finished part is the live one's companion, which takes away what the
            live one started at (:mod:`rankwright.inits.companion`). The two are multiplied apart,
            so that equal parts cancel to the last bit; where the live part is not selected, they
            are saved and not computed.
        apart: Whether the finished part computes in a product of its own while training, so that
            nothing of it is kept for the backward pass.
        folded: How many finished boosters the base layer's working copy already holds; `forward`
            leaves them out.

    Args:
        linear: The factor that PEFT made; its weight becomes `live`.
        axis: Where boosters are stacked: 0 for A, 1 for B.
        dropout: Dropout on the input of the live part. The finished part sees the input as it is.
    """

    weight_is_state = True  # together with the numbers of ranks, which the procedure stores
    other_shape = (
        "the chain has another length: load the procedure's state of the same checkpoint before "
        "its adapter, or load the adapter with PeftModel.from_pretrained"
    )

    history: Tensor

    def __init__(self, linear: nn.Linear, axis: int, dropout: nn.Module | None = None) -> None:
        super().__init__(linear, axis)
        self.dropout = dropout or nn.Identity()
        self.selected = True
        self.paired = False
        self.apart = False
        self.folded = 0
        empty = linear.weight.detach().narrow(axis, 0, 0).clone()
        self.register_buffer("history", empty, persistent=False)

    @property
    def active(self) -> Tensor:
        """The part of `live` in use, (width, in) or (out, width)."""
        whole = self.width == self.live.shape[self.axis]
        return self.live if whole else self.live.narrow(self.axis, 0, self.width)

    @property
    def finished(self) -> int:
        """Rank R of the finished part."""
        return self.history.shape[self.axis]

    @property
    def rank(self) -> int:
        """Rank of the stack."""
        return self.finished + self.width if self._both else self.finished or self.width

    @property
    def _both(self) -> bool:
        """Whether the stack has its live part beside the finished one."""
        return self.selected or self.paired

    @property
    def _computes_history(self) -> bool:
        """False for a companion whose live pair is left out: alone it would change the model."""
        return self.selected or not self.paired

    @property
    def weight(self) -> Tensor:
        """The whole stack, (R + r, in) or (out, R + r)."""
        return self._stack(self.history)

    @property
    def trained(self) -> nn.Parameter:
        """The live part."""
        return self.live

    def forward(self, x: Tensor) -> Tensor:
        """The factor's product.

        Args:
            x: (..., in) for A, (..., R + r) for B.

        Returns:
            (..., R + r) for A, (..., out) for B; R counts the boosters that are not folded.
        """
        if not self._computes_history:
            return F.linear(x, self.live.narrow(self.axis, 0, 0))  # of rank 0
        history = self._unfolded()
        if history.numel() == 0:
            return F.linear(self.dropout(x), self.active)
        apart = self.training and (self.apart or not isinstance(self.dropout, nn.Identity))
        if not (self.selected and (self.paired or apart)):
            return F.linear(x, self._stack(history))
        if self.axis == 0:
            return torch.cat((F.linear(x, history), F.linear(self.dropout(x), self.active)), dim=-1)
        # Copies: a view would keep all of x until the backward pass, and a product may round
        # differently where its input is not aligned the same way.
        old, new = (
            part.contiguous() for part in torch.split(x, [history.shape[1], self.width], -1)
        )
        return F.linear(old, history) + F.linear(new, self.active)

    def factors_with(self, B: StackedFactor) -> Factors:
        """Both factors for `kernels.fused_linear`; `self` is the factor A.

        A layer with neither a finished nor a live booster has B = 0 and computes nothing, and so
        does one whose companion takes away what is not there.

        Args:
            B: The other factor of the same layer.
        """
        frozen = self.finished > self.folded and self._computes_history
        return Factors(
            A=self.active if self.selected else None,
            B=B.active if self.selected else None,
            A0=self._unfolded() if frozen else None,
            B0=B._unfolded() if frozen else None,
            dropout=self.dropout,
            mirrored=self.paired,
        )

    def extra_repr(self) -> str:
        """Shape of the stack."""
        return f"rank={self.rank}, finished={self.finished}, selected={self.selected}"

    def _unfolded(self) -> Tensor:
        return self.history.narrow(self.axis, self.folded, self.finished - self.folded)

    def _stack(self, history: Tensor) -> Tensor:
        if history.numel() == 0:
            return self.active
        return torch.cat((history, self.active), dim=self.axis) if self._both else history

    def take(self, weight: Tensor) -> None:
        """Copy the weight into the finished and the live part, which keep their ranks."""
        sizes = [self.finished, weight.shape[self.axis] - self.finished]
        history, live = torch.split(weight, sizes, dim=self.axis)
        self.history.copy_(history)
        if live.numel():
            self.active.copy_(live)


class WorkingCopy(nn.Module):
    """A base layer that computes with a copy of its weight to which boosters were added.

    The base layer itself is not written: it answers whenever the adapter is disabled or merged.

    Args:
        base_layer: The base layer.
        owner: The adapted layer around it.
        adapter: The adapter whose boosters the copy holds.
        weight: The copy, in the layout and dtype of the base layer's weight.
    """

    working: Tensor

    def __init__(
        self, base_layer: nn.Module, owner: LoraLayer, adapter: str, weight: Tensor
    ) -> None:
        super().__init__()
        self.base_layer = base_layer
        self._owner = (owner,)  # in a tuple, or the owner would become a child of its own child
        self._adapter = adapter
        self.register_buffer("working", weight, persistent=False)

    def weight_in_use(self) -> Tensor:
        """The weight under an active adapter; for `kernels.fused_linear`."""
        return self.working

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The base layer's output, (..., out), under the weight that holds now."""
        (owner,) = self._owner
        if owner.disable_adapters or owner.merged or self._adapter not in owner.active_adapters:
            return self.base_layer(*args, **kwargs)
        return functional_call(self.base_layer, {"weight": self.working}, args, kwargs)
