"""Products with the factors of several layers that see one input."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rankwright.kernels.operands import (
    Layer,
    Operands,
    Rule,
    in_dtype,
)
from rankwright.kernels.seeded_dropout import (
    drop_at,
    dropped_places,
)


class FactorPair(NamedTuple):
    """Factors of a layer that are multiplied as one, the trained ones first.

    Attributes:
        layer: Index of the layer.
        rule: The layer's rule.
        A: (K, in).
        B: (out, K).
        trained: Rank of the trained factors in it; 0 without any.
        dropped: Whether it sees the dropped input.
    """

    layer: int
    rule: Rule
    A: Tensor
    B: Tensor
    trained: int
    dropped: bool = False


FactorStack = list[FactorPair]
"""Pairs that see the same input."""


def stacks_of(layers: Sequence[Layer], which: Collection[int]) -> list[FactorStack]:
    """Group the pairs of some layers by the input that they see.

    A dropped input is one layer's own, since every layer draws its own mask; an input that is not
    dropped is shared by the pairs of one dtype.
    """
    found: dict[Any, FactorStack] = {}
    for i in which:
        for pair in pairs_of(i, *layers[i]):
            found.setdefault(i if pair.dropped else pair.A.dtype, []).append(pair)
    return list(found.values())


def pairs_of(layer: int, o: Operands, rule: Rule) -> list[FactorPair]:
    """Return the trained and the frozen pair of a layer, as one pair if they see the same input."""
    _, _, _, A, B, A0, B0, *_ = o

    def pair(A: Tensor, B: Tensor, trained: int, dropped: bool = False) -> FactorPair:
        dtype = rule.dtype or A.dtype
        return FactorPair(layer, rule, in_dtype(A, dtype), in_dtype(B, dtype), trained, dropped)

    if A is None or B is None:
        return [] if A0 is None or B0 is None else [pair(A0, B0, 0)]
    r = A.shape[0]
    if A0 is None or B0 is None:
        return [pair(A, B, r, rule.dropout > 0)]
    if rule.dropout:
        return [pair(A, B, r, True), pair(A0, B0, 0)]
    if rule.mirrored:  # subtracted before autocast rounds both to the same number
        A, A0, B, B0 = A, A - A0, B + B0, -B0
    return [pair(torch.cat((A, A0)), torch.cat((B, B0), dim=1), r)]


def joined(parts: list[Tensor]) -> Tensor:
    """Concatenate along the ranks; a single part is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def add_products(layers: Sequence[Layer], outputs: list[Tensor]) -> list[Tensor | None]:
    """Add the products to the outputs, and return A drop(x)^T (r, tokens) of the trained pairs.

    Outputs are changed in place; one in lower precision than the factors is replaced in the list by
    a copy in their dtype, so that the caller rounds the sum only once.
    """
    hs: list[Tensor | None] = [None] * len(layers)
    x = layers[0][0].x
    for stack in stacks_of(layers, range(len(layers))):
        tokens = x.numel() // x.shape[-1]
        places = places_of(stack, tokens, x.device)
        h = joined([pair.A for pair in stack]) @ input_of(x, stack, places).T  # (K, tokens)
        frozen = h.shape[0] - sum(pair.trained for pair in stack)
        for pair, part in zip(stack, parts_of(h, stack), strict=True):
            if pair.trained:  # a view would keep the frozen rows for the backward as well
                hs[pair.layer] = part[: pair.trained].clone() if frozen else part
            outputs[pair.layer] = plus_product(outputs[pair.layer], part, pair)
    return hs


def parts_of(h: Tensor, stack: FactorStack) -> Sequence[Tensor]:
    """Split A x^T of a stack into the rows of its pairs."""
    return (h,) if len(stack) == 1 else h.split_with_sizes([pair.A.shape[0] for pair in stack])


def plus_product(y: Tensor, h: Tensor, pair: FactorPair) -> Tensor:
    """Add s h^T B^T to an output, in place if its dtype is wide enough."""
    y = in_dtype(y, torch.promote_types(y.dtype, h.dtype))
    add_product(y.view(-1, y.shape[-1]), h.T, pair.B.T, pair.rule.s)
    return y


def add_product(total: Tensor, left: Tensor, right: Tensor, s: float = 1.0) -> None:
    """Compute `total += s left right`, without a temporary where the dtypes allow it."""
    if total.dtype == left.dtype:
        total.addmm_(left, right, alpha=s)
    else:
        total.add_(left @ right, alpha=s)


def places_of(stack: FactorStack, tokens: int, device: torch.device) -> Tensor | None:
    """Return the places where the input of a stack is dropped; None without dropout."""
    pair = stack[0]  # a dropped pair is alone in its stack
    if not pair.dropped:
        return None
    return dropped_places(tokens * pair.A.shape[1], pair.rule.dropout, pair.rule.seed, device)


def input_of(x: Tensor, stack: FactorStack, places: Tensor | None) -> Tensor:
    """Return the input that a stack sees, (tokens, in)."""
    pair = stack[0]
    x = in_dtype(x.reshape(-1, x.shape[-1]), pair.A.dtype)
    return x if places is None else drop_at(x, pair.rule.dropout, places)


def rows_of_a(pair: FactorPair, gh: Tensor) -> Tensor:
    """Return the matrix (r, tokens) whose product with the input is dL/dA."""
    rows = gh[: pair.trained]
    if pair.rule.mirrored and gh.shape[0] > pair.trained:
        return rows + gh[pair.trained :]  # dy (B + B_0) - dy B_0
    return rows
