"""Formats of a moment: what comes back, on average and at worst, and that it can go down."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor

from rankwright.optimizers import moments
from rankwright.optimizers.moments import BLOCK, Format, Moment, dither, row_blocks

CPU = torch.device("cpu")
ALL = slice(0, None)
SMALL = ("bfloat16", "8bit")


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Numbers over six orders of magnitude, with a sign."""
    generator = torch.Generator().manual_seed(seed)
    size = 10 ** (6 * torch.rand(*shape, generator=generator) - 6)
    return size * torch.randn(*shape, generator=generator).sign()


def moment(exact: Tensor, form: Format, step: int = 1) -> Moment:
    shape = (exact.shape[0], exact.shape[1])
    signed = bool((exact < 0).any())
    made = Moment.zeros(shape, form, signed=signed, dtype=exact.dtype, device=CPU)
    made.write(ALL, exact, None if form == "float32" else dither(step, *shape, CPU))
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_float32_is_exact_and_float64_stays(dtype: torch.dtype) -> None:
    exact = draw(3, 300).to(dtype)
    found = moment(exact, "float32").read(ALL, CPU)
    assert found.dtype == dtype
    assert torch.equal(found, exact)


@pytest.mark.parametrize("form", get_args(Format))
def test_what_is_read_is_a_copy(form: Format) -> None:
    kept = moment(draw(3, 300), form)
    kept.read(ALL, CPU).zero_()
    assert bool(kept.read(ALL, CPU).any())


def steps(exact: Tensor, form: Format) -> Tensor:
    """The distance of two neighbouring numbers of the format, at each entry."""
    if form == "bfloat16":
        return 2**-7 * exact.abs()
    codes = 127 if bool((exact < 0).any()) else 255
    largest = torch.stack([part.abs().amax(1) for part in exact.split(BLOCK, dim=1)], dim=1)
    largest = largest.repeat_interleave(BLOCK, dim=1)[:, : exact.shape[1]]
    root = (exact.abs() / largest) ** 0.25 * codes
    return largest * 4 * (root + 1) ** 3 / codes**4  # the derivative of the fourth power, above


@pytest.mark.parametrize("sign", ["both", "positive"])
@pytest.mark.parametrize("columns", [BLOCK, 2 * BLOCK, 300, 7])
@pytest.mark.parametrize("form", SMALL)
def test_an_entry_comes_back_within_a_step_of_the_format(
    form: Format, columns: int, sign: str
) -> None:
    exact = draw(5, columns) if sign == "both" else draw(5, columns).abs()
    found = moment(exact, form).read(ALL, CPU)
    assert bool(((found - exact).abs() <= 1.001 * steps(exact, form)).all())


@pytest.mark.parametrize("form", SMALL)
def test_right_on_average(form: Format) -> None:
    exact = draw(4, 300)
    found = torch.stack([moment(exact, form, step).read(ALL, CPU) for step in range(1000)])
    error = (found.double().mean(0) - exact).abs() / steps(exact, form)
    assert float(error.max()) < 5 * 0.5 / 1000**0.5  # five standard errors; 0.5 if to nearest


def decayed(form: Format, steps: int, draws: bool) -> Tensor:
    """A second moment after gradients have stopped, relative to what it should be."""
    exact = draw(8, 512).abs()
    kept, half = moment(exact, form), torch.full((8, 512), 1 << 15, dtype=torch.int32)
    for step in range(2, steps + 2):
        value = kept.read(ALL, CPU).mul_(0.999)
        kept.write(ALL, value, dither(step, 8, 512, CPU) if draws else half)
    return kept.read(ALL, CPU) / (exact * 0.999**steps)


def test_a_second_moment_decays_in_bfloat16() -> None:
    assert abs(float(decayed("bfloat16", 500, draws=True).mean()) - 1) < 0.02
    # the control rounds to nearest, and stands still
    assert float(decayed("bfloat16", 500, draws=False).mean()) > 1.5


def test_a_second_moment_follows_a_smaller_gradient_in_8_bits() -> None:
    """Half of each block goes to a hundredth: what is not the largest decays by rounding only."""
    exact = torch.ones(4, 512)
    kept, target = moment(exact, "8bit"), torch.ones(4, 512)
    target[:, ::2] = 0.01
    expected = exact.clone()
    for step in range(2, 1502):
        expected = 0.999 * expected + 0.001 * target
        value = kept.read(ALL, CPU).mul_(0.999).add_(target, alpha=0.001)
        kept.write(ALL, value, dither(step, 4, 512, CPU))
    found = kept.read(ALL, CPU)
    for start in (0, 1):
        ratio = found[:, start::2].mean() / expected[:, start::2].mean()
        assert abs(float(ratio) - 1) < 0.02


def test_a_second_moment_has_no_zero_beside_a_large_entry() -> None:
    exact = torch.zeros(1, BLOCK)
    exact[0, 0] = 1.0
    found = moment(exact, "8bit").read(ALL, CPU)
    assert float(found[0, 0]) == 1.0
    assert 0 < float(found[0, 1:].min()) == float(found[0, 1:].max()) < 1e-9


@pytest.mark.parametrize("form", get_args(Format))
def test_zero_is_zero(form: Format) -> None:
    assert not moment(torch.zeros(3, 300), form).read(ALL, CPU).any()


@pytest.mark.parametrize("form", get_args(Format))
def test_rows_are_written_alone(form: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(moments.ROWS_NUMBERS, "cpu", 2 * 300)
    exact = draw(7, 300)
    kept = Moment.zeros((7, 300), form, signed=True, dtype=torch.float32, device=CPU)
    blocks = list(row_blocks(7, 300, CPU))
    rounded = None if form == "float32" else dither(1, 7, 300, CPU)
    assert [(b.start, b.stop) for b in blocks] == [(0, 2), (2, 4), (4, 6), (6, 8)]
    assert rounded is None or rounded.shape == (2, 300)
    for rows in blocks:
        kept.write(rows, exact[rows], rounded)
    whole = Moment.zeros((7, 300), form, signed=True, dtype=torch.float32, device=CPU)
    whole.write(ALL, exact, None if rounded is None else rounded.repeat(4, 1))
    assert torch.equal(kept.read(ALL, CPU), whole.read(ALL, CPU))
    assert torch.equal(kept.read(blocks[1], CPU), whole.read(ALL, CPU)[2:4])


@pytest.mark.parametrize(("form", "most"), [("float32", 4), ("bfloat16", 2), ("8bit", 1 + 4 / 256)])
def test_bytes_an_entry(form: Format, most: float) -> None:
    kept = Moment.zeros((8, 512), form, signed=True, dtype=torch.float32, device=CPU)
    tensors = [t for t in (kept.values, kept.scales) if t is not None]
    assert sum(t.numel() * t.element_size() for t in tensors) == most * 8 * 512


def test_a_draw_is_a_function_of_the_step() -> None:
    state = torch.get_rng_state()
    assert torch.equal(dither(3, 8, 64, CPU), dither(3, 8, 64, CPU))
    assert not torch.equal(dither(3, 8, 64, CPU), dither(4, 8, 64, CPU))
    assert torch.equal(torch.get_rng_state(), state)
