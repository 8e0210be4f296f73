"""The mask of dropout as a function of a seed."""

from __future__ import annotations

import pytest
import torch

from rankwright.kernels.seeded_dropout import drop, dropped_places, keep_mask, new_seed


@pytest.mark.parametrize("p", [0.001, 0.05, 0.5, 0.9])
def test_every_entry_is_dropped_independently_with_probability_p(p: float) -> None:
    n = 200_000
    mask = keep_mask(torch.Size([n]), p, 3, torch.empty(0, dtype=torch.float64))
    dropped = (mask == 0).double()
    deviation = (p * (1 - p) / n) ** 0.5
    assert abs(float(dropped.mean()) - p) < 4 * deviation
    torch.testing.assert_close(mask[mask != 0], torch.full_like(mask[mask != 0], 1 / (1 - p)))
    centred = dropped - p
    for lag in (1, 2, 7, 64):
        correlation = float((centred[lag:] * centred[:-lag]).mean()) / (p * (1 - p))
        assert abs(correlation) < 5 / n**0.5, lag
    for part in (dropped[: n // 10], dropped[-n // 10 :]):  # from the first entry to the last
        assert abs(float(part.mean()) - p) < 4 * deviation * 10**0.5


def test_the_mask_is_a_function_of_the_seed() -> None:
    places = [dropped_places(1000, 0.1, seed, torch.device("cpu")) for seed in (1, 1, 2)]
    assert torch.equal(places[0], places[1])
    assert not torch.equal(places[0], places[2])
    x = torch.randn(4, 5, 6)
    state = torch.get_rng_state()
    y = drop(x, 0.5, 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(y, x * keep_mask(x.shape, 0.5, 1, x))


def test_every_seed_is_drawn_from_the_global_state() -> None:
    torch.manual_seed(0)
    first = [new_seed(), new_seed()]
    torch.manual_seed(0)
    assert [new_seed(), new_seed()] == first
    assert first[0] != first[1]
