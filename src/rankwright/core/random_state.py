"""Random state: generators seeded by a key, and the global state for exact replay."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def seeded_generator(seed: int, *key: object) -> torch.Generator:
    """A CPU generator that is a pure function of (seed, key); that of `Run.generator`."""
    digest = hashlib.blake2b(repr((seed, *key)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def random_state() -> list[Tensor]:
    """Global random state: CPU, then the current CUDA device where there is one."""
    state = [torch.get_rng_state()]
    if torch.cuda.is_available():
        state.append(torch.cuda.get_rng_state())
    return state


def set_random_state(state: list[Tensor]) -> None:
    """Undo of `random_state`; that of a device is left out where there is none any more."""
    torch.set_rng_state(state[0])
    if len(state) > 1 and torch.cuda.is_available():
        torch.cuda.set_rng_state(state[1])
