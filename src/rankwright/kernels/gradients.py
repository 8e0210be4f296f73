"""Gradients of adapted layers that see one input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor

from rankwright.algebra.precision import nonzero
from rankwright.kernels.operands import (
    TENSORS,
    Layer,
    Operands,
    gain_of,
    in_dtype,
    plain_linear,
    weight_of,
)
from rankwright.kernels.products import (
    FactorPair,
    FactorStack,
    add_product,
    input_of,
    joined,
    places_of,
    rows_of_a,
    stacks_of,
)
from rankwright.kernels.seeded_dropout import (
    kept_scale,
    zero_at,
)


class Gradients:
    """The gradients that one backward accumulates.

    Attributes:
        dx: (tokens, in), or None where x needs no gradient.
    """

    def __init__(self, layers: Sequence[Layer], needs: Sequence[bool], dtype: torch.dtype) -> None:
        self.dx: Tensor | None = None
        self._layers, self._dtype = layers, dtype
        self._needs_x, self._needs_a = needs[0], needs[Operands._fields.index("A") :: TENSORS]
        self._dus: dict[int, Tensor] = {}  # (tokens, out), by layer that got a gradient
        self._of: list[dict[str, Tensor]] = [{} for _ in layers]

    def through_outputs(self, grads: Sequence[Tensor | None], ys: Sequence[Tensor | None]) -> None:
        """Compute dL/dm, dL/dn, and the part of dL/dx through the base weights; call it first.

        The products add to that dL/dx in place, and read the gradients of u that are stored here.
        """
        for i, (o, rule) in enumerate(self._layers):
            grad, y = grads[i], ys[i]
            if grad is None:
                continue
            du = grad.reshape(-1, grad.shape[-1])
            if y is not None:
                self._of[i].update(magnitude_grads(o, y.reshape(du.shape), du))
            if o.m is not None:
                du = in_dtype(du * gain_of(o), du.dtype)
            if self._needs_x:
                self._add_to_x(du, in_dtype(weight_of(o, rule), du.dtype))
            self._dus[i] = du

    def through_products(self, hs: Sequence[Tensor | None]) -> None:
        """Compute dL/dA, dL/dB, and the part of dL/dx through the low-rank products."""
        for stack in stacks_of(self._layers, self._dus):
            ghs = [
                (pair.B.T @ in_dtype(self._dus[pair.layer].T, pair.B.dtype)).mul_(pair.rule.s)
                for pair in stack
            ]
            gh = joined(ghs)  # (K, tokens)
            places = places_of(stack, gh.shape[1], gh.device)
            self._put_grads_of_a(stack, ghs, gh, places)
            for pair in stack:
                h = hs[pair.layer]
                if pair.trained and h is not None:
                    self._of[pair.layer]["B"] = self._grad_of_b(pair, h)
            if self._needs_x:
                self._add_products_to_x(stack, gh, places)

    def of_operands(self) -> Iterator[Tensor | None]:
        """Yield a gradient, or None, for each argument of the function after x."""
        return (of.get(name) for of in self._of for name in Operands._fields[1:])

    def _grad_of_b(self, pair: FactorPair, h: Tensor) -> Tensor:
        """Return dL/dB, (out, r)."""
        B, du = cast(Tensor, self._layers[pair.layer][0].B), self._dus[pair.layer]
        like = torch.empty_like(B, dtype=h.dtype)  # DDP expects B's own strides
        return torch.mul((h @ in_dtype(du, h.dtype)).T, pair.rule.s, out=like)

    def _put_grads_of_a(
        self, stack: FactorStack, ghs: list[Tensor], gh: Tensor, places: Tensor | None
    ) -> None:
        wanted = [
            (pair, rows_of_a(pair, part))
            for pair, part in zip(stack, ghs, strict=True)
            if pair.trained and self._needs_a[pair.layer]  # as in the forward, which kept x for it
        ]
        if not wanted:
            return
        parts = [rows for _, rows in wanted]
        ranks = [rows.shape[0] for rows in parts]
        whole = sum(ranks) == gh.shape[0]  # gh is the concatenation already: no copy
        found = (gh if whole else joined(parts)) @ input_of(self._layers[0][0].x, stack, places)
        for (pair, _), dA in zip(wanted, found.split_with_sizes(ranks), strict=True):
            self._of[pair.layer]["A"] = dA

    def _add_products_to_x(self, stack: FactorStack, gh: Tensor, places: Tensor | None) -> None:
        A = joined([pair.A for pair in stack])
        if places is None:
            self._add_to_x(gh.T, A)
        else:
            # scaled before the product: K numbers per token instead of `in`
            left = (gh * kept_scale(stack[0].rule.dropout)).T
            shape = (gh.shape[1], A.shape[1])
            product = zero_at(places, shape, gh, lambda out: torch.mm(left, A, out=out))
            cast(Tensor, self.dx).add_(product)  # set by `through_outputs`

    def _add_to_x(self, left: Tensor, right: Tensor) -> None:
        if self.dx is None:
            self.dx = in_dtype(left @ right, self._dtype)
        else:
            add_product(self.dx, left, right)


def magnitude_grads(o: Operands, y: Tensor, dy: Tensor) -> dict[str, Tensor]:
    """Return `dL/dm = sum dy (y - b) / m` and `dL/dn = -sum dy (y - b) / n`, from the output only.

    A row with m = 0 has the output b, which does not determine dL/dm: do not use `lowrank_linear`
    for it.
    """
    m, n = cast(Tensor, o.m), cast(Tensor, o.n)
    product = dy * y if o.bias is None else (y - o.bias).mul_(dy)
    total = product.sum(0, dtype=torch.promote_types(product.dtype, m.dtype))
    found = {"m": total / m.masked_fill(m == 0, 1.0)}
    return {**found, "n": -total / nonzero(n)} if n.requires_grad else found


def plain_grads(
    layers: Sequence[Layer], needs: Sequence[bool], grads: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Return gradients that can be differentiated again, from `plain_linear`.

    Raises:
        RuntimeError: The input was not kept, because A is frozen.
    """
    x, rule = layers[0][0].x, layers[0][1]
    if not isinstance(x, Tensor):
        raise RuntimeError(
            "this layer's A is frozen, so its input was not kept, and the backward cannot be "
            "differentiated; run the forward inside rankwright.kernels.fused_linear.plain_layers()"
        )
    operands = [x, *(tensor for o, _ in layers for tensor in o[1:])]
    wanted = [cast(Tensor, t) for t, need in zip(operands, needs, strict=True) if need]
    device = x.device.type
    with torch.enable_grad(), torch.autocast(device, rule.dtype, enabled=rule.dtype is not None):
        pairs = [
            (plain_linear(o, rule), grad)
            for (o, rule), grad in zip(layers, grads, strict=True)
            if grad is not None
        ]
        outputs, given = zip(*pairs, strict=True)
        found = iter(
            torch.autograd.grad(outputs, wanted, given, create_graph=True, allow_unused=True)
        )
    return [next(found) if need else None for need in needs]
