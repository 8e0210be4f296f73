"""The dtype in which algebra is done, and divisors that are not zero."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """The dtype in which algebra on these tensors is done: float64 if one of them is, else float32.

    Args:
        tensors: Any floating-point tensors.

    Returns:
        `torch.float32` or `torch.float64`.
    """
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def no_autocast(tensor: Tensor) -> AbstractContextManager[Any]:
    """Autocast off on the tensor's device, where it is on: to enter it costs as much as a product.

    Args:
        tensor: Any.
    """
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def nonzero(n: Tensor) -> Tensor:
    """`n` with 1 for 0: a zero row stays zero whatever it is divided by."""
    return n.masked_fill(n == 0, 1.0)
