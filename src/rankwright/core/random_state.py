"""Random state: generators seeded by a key, and the global state for exact replay."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def seeded_generator(seed: int, *key: object) -> torch.Generator:
    """Return a CPU generator whose state is a pure function of (seed, key)."""
    digest = hashlib.blake2b(repr((seed, *key)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def random_state() -> list[Tensor]:
    """Return the global random state: CPU, then the current CUDA device if there is one."""
    state = [torch.get_rng_state()]
    if torch.cuda.is_available():
        state.append(torch.cuda.get_rng_state())
    return state


def set_random_state(state: list[Tensor]) -> None:
    """Restore a state that `random_state` returned; skip a CUDA state without a device."""
    torch.set_rng_state(state[0])
    if len(state) > 1 and torch.cuda.is_available():
        torch.cuda.set_rng_state(state[1])
