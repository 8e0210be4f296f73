"""What the tests of the core share."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from rankwright.kernels import fused_linear

Sizes = list[int]


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> Sizes:
    """Of every call of the one function, the number of layers that it computes."""
    found: Sizes = []
    original = fused_linear.lowrank_linears

    def counted(layers: Any, origin: Any) -> tuple[Tensor, ...]:
        found.append(len(layers))
        return original(layers, origin)

    monkeypatch.setattr(fused_linear, "lowrank_linears", counted)
    return found
