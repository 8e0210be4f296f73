"""Compare what was loaded with the model in hand: tensors exactly, logits within a tolerance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from rankwright.core.model_call import evaluation_mode
from rankwright.training.export.errors import ExportError

LOGIT_TOLERANCE = {
    torch.float64: 1e-10,
    torch.float32: 1e-4,
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
}
"""Base dtype -> largest difference of a logit in an exact export, relative to the largest logit."""


def check_same(expected: Mapping[str, Tensor], loaded: Mapping[str, Tensor], what: str) -> None:
    """Refuse tensors that do not have the same names and exactly the same values.

    Dtypes may differ: PEFT loads half-precision factors as float32.

    Args:
        expected: Tensors of the model in hand, by name.
        loaded: Tensors of the loaded model, by name.
        what: Name of the export, for the message.

    Raises:
        ExportError: A tensor is missing or unexpected, or differs in shape or in a value.
    """
    for name in sorted(expected.keys() | loaded.keys()):
        if name not in expected or name not in loaded:
            where = "the model in hand" if name not in expected else "what was loaded"
            raise ExportError(f"the {what} was written, but {name} is not in {where}")
        a, b = expected[name], loaded[name]
        if a.shape != b.shape or not torch.equal(a.cpu().double(), b.cpu().double()):
            raise ExportError(
                f"the {what} was written, but {name} is not the same after loading: "
                f"{a.dtype} {tuple(a.shape)} became {b.dtype} {tuple(b.shape)}, or values differ"
            )


def logit_difference(logits: Tensor, expected: Tensor, tolerance: float) -> float:
    """Return the largest absolute difference of a logit.

    Args:
        logits: Logits of the loaded model.
        expected: Logits of the model in hand; same shape.
        tolerance: Largest difference that passes, relative to the largest absolute logit of
            `expected`.

    Raises:
        ExportError: The difference is larger, or NaN.
    """
    difference = float((logits - expected).abs().max())
    allowed = tolerance * float(expected.abs().max())
    if not difference <= allowed:  # also refuses NaN
        raise ExportError(
            f"the written model gives logits that are off by {difference:.2e} on the probe inputs, "
            f"more than the {allowed:.2e} allowed; nothing was kept. Another bound, as a share of "
            "the largest logit, is set by --tolerance on the command line, tolerance= in Python"
        )
    return difference


def compute_logits(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return a model's logits in eval mode, without gradients.

    The training mode of every module is restored.

    Args:
        model: Any module; of an output without `logits`, the first tensor is taken.
        inputs: Keyword arguments of its forward.

    Returns:
        Float64, in the shape of the model's output.
    """
    with evaluation_mode(model), torch.no_grad():
        output = model(**inputs)
    if isinstance(output, Tensor):
        return output.double()
    logits = output.get("logits") if hasattr(output, "get") else None
    return cast(Tensor, output[0] if logits is None else logits).double()
