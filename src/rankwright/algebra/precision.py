"""The dtype of matrix algebra, and divisors that are never zero."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """Return the dtype for algebra on these tensors: float64 if one of them is, else float32.

    Args:
        tensors: Any floating-point tensors.

    Returns:
        `torch.float32` or `torch.float64`.
    """
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def no_autocast(tensor: Tensor) -> AbstractContextManager[Any]:
    """Return a context that switches autocast off on the tensor's device.

    Where autocast is off already the context does nothing: entering `torch.autocast` costs as much
    as a product.

    Args:
        tensor: Any tensor.
    """
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def nonzero(n: Tensor) -> Tensor:
    """Return `n` with each 0 replaced by 1: a zero row stays zero whatever it is divided by."""
    return n.masked_fill(n == 0, 1.0)
