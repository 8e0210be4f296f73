"""Taking memory, for tests of what is said about its peak."""

from __future__ import annotations

import os

import pytest
import torch

from rankwright.training.memory import CLEAR_REFS

MIB = 2**20

tells_steps_apart = pytest.mark.skipif(
    not os.access(CLEAR_REFS, os.W_OK), reason="the resident peak cannot begin anew"
)


def take(mib: int) -> None:
    """Write to so much memory, and give it back."""
    torch.ones(mib * MIB // 4)
