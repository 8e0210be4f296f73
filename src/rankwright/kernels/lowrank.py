r"""The adapted linear layer as one autograd function: the least work and the least memory.

    u = x W^T + b + s (drop(x) A^T B^T + x A_0^T B_0^T)                     LoRA, A_0 B_0 frozen
    y = b + g (u - b),   g = m / n                                          DoRA, row by row

W (out, in), b (out), A (r, in), B (out, r), A_0 (R, in), B_0 (out, R), m and n (out). PEFT computes
the same as six operations of its own. Here

- layers that see the same x are one function: they share the product with their factors A, the sum
  of their gradients of x, and what is kept of x;
- both products are added into the base layer's output, and into the gradient of x, as they are
  multiplied; the scaling is folded in; A and A_0, B and B_0 are multiplied as one;
- kept for the backward are x, or what x was computed from, if that is known (only where A is
  trained), and the r numbers a token between the factors (only where B is): not the dropped input,
  and no second output. The gradient of a
  magnitude follows from the output, `dL/dm = sum dL/dy (y - b) / m`, which the next operation
  often keeps anyway;
- dropout is drawn from a seed, once more in the backward;
- thin factors stand on the left of their products, where the libraries are two to five times
  faster than on the right (measured with MKL at r = 8).

Differentiated twice, it steps back to the plain operations.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from rankwright.algebra.precision import no_autocast, nonzero
from rankwright.kernels.recomputation import Origin
from rankwright.kernels.seeded_dropout import (
    drop_at,
    dropped_places,
    keep_mask,
    kept_scale,
    zero_at,
)
from rankwright.kernels.seeded_noise import Noise


class Operands(NamedTuple):
    """The tensors of one adapted layer.

    Attributes:
        x: (..., in).
        W: Frozen weight, (out, in), or (in, out) if `Rule.transposed`.
        bias: Frozen, (out,), or None.
        A: Trained factor (r, in), or None where the frozen pair is all there is.
        B: Trained factor (out, r), or None.
        A0: (R, in), or None.
        B0: (out, R), or None.
        m: Magnitude (out,), or None for LoRA.
        n: Row norm (out,), or None for LoRA; it may carry a gradient.
    """

    x: Tensor
    W: Tensor
    bias: Tensor | None = None
    A: Tensor | None = None
    B: Tensor | None = None
    A0: Tensor | None = None
    B0: Tensor | None = None
    m: Tensor | None = None
    n: Tensor | None = None


@dataclass(frozen=True)
class Rule:
    """How the operands are put together.

    Attributes:
        s: Scaling of both products.
        transposed: Whether W is stored (in, out), as GPT-2's Conv1D does.
        mirrored: Whether the frozen pair is the start of the trained one, negated. The products
            are then formed as `A (B + B_0) - (A - A_0) B_0`: exactly zero at the start.
        dropout: Probability p of the input of the trained pair; 0 for none.
        seed: Of the dropout mask.
        dtype: What autocast computes in; None without autocast.
        noise: Added to W where it is multiplied, and drawn again in the backward; only where
            there is no magnitude, no autocast, and W can hold it: in float32 or float64.
    """

    s: float
    transposed: bool = False
    mirrored: bool = False
    dropout: float = 0.0
    seed: int = 0
    dtype: torch.dtype | None = None
    noise: Noise | None = None


Layer = tuple[Operands, Rule]


def lowrank_linear(operands: Operands, rule: Rule, origin: Origin | None = None) -> Tensor:
    """The layer's output.

    Args:
        operands: See `Operands`.
        rule: See `Rule`.
        origin: Of x; it is then computed again in the backward and not kept.

    Returns:
        (..., out), in the dtype that the base layer would give.
    """
    return lowrank_linears([(operands, rule)], origin)[0]


def lowrank_linears(layers: Sequence[Layer], origin: Origin | None = None) -> tuple[Tensor, ...]:
    """The outputs of layers that see the same input.

    Args:
        layers: Operands, all with the same x, and rules.
        origin: See `lowrank_linear`.

    Returns:
        For each layer what `lowrank_linear` gives, but for the order of summation.
    """
    rules = tuple(rule for _, rule in layers)
    tensors = (tensor for operands, _ in layers for tensor in operands[1:])
    x = layers[0][0].x
    outputs = _LowRankLinears.apply(rules, origin, x, *tensors)  # type: ignore[no-untyped-call]
    return cast("tuple[Tensor, ...]", outputs)


def plain_linear(operands: Operands, rule: Rule) -> Tensor:
    """The same by PyTorch's own operations: the slow reference, differentiable at will.

    Args:
        operands: See `Operands`.
        rule: See `Rule`; `dtype` is not used, autocast is as it is.

    Returns:
        (..., out).
    """
    x, _, bias, A, B, A0, B0, m, n = operands
    y = F.linear(x, _weight(operands, rule), bias)
    u = y
    if A is not None and B is not None:
        x_low = x.to(A.dtype)
        if rule.dropout:
            x_low = x_low * keep_mask(x_low.shape, rule.dropout, rule.seed, x_low)
        u = u + rule.s * F.linear(F.linear(x_low, A), B)
    if A0 is not None and B0 is not None:
        u = u + rule.s * F.linear(F.linear(x.to(A0.dtype), A0), B0)
    if m is not None and n is not None:
        g = m / nonzero(n)
        u = u * g if bias is None else (u - bias) * g + bias
    return u.to(y.dtype)


# The function ------------------------------------------------------------------------------------

_FIELDS = len(Operands._fields) - 1  # of a layer, x apart


class _LowRankLinears(Function):
    @staticmethod
    def forward(
        ctx: Any, rules: tuple[Rule, ...], origin: Origin | None, x: Tensor, *tensors: Any
    ) -> tuple[Tensor, ...]:
        layers = _layers(x, tensors, rules)
        with no_autocast(x):
            outputs = [_base_output(o, rule) for o, rule in layers]
            dtypes = [y.dtype for y in outputs]
            hs = _add_products(layers, outputs)
            for i, (o, _) in enumerate(layers):
                scaled = outputs[i] if o.m is None else _scale_rows(o, outputs[i])
                outputs[i] = _no_view(_as(scaled, dtypes[i]))
        ctx.set_materialize_grads(False)
        ctx.rules, ctx.origin, ctx.shape, ctx.dtype = rules, origin, x.shape, x.dtype
        of_x = (x,) if origin is None else origin.inputs
        ctx.save_for_backward(
            *tensors,
            *(h if _is_trained(o.B) else None for (o, _), h in zip(layers, hs, strict=True)),
            *(y if _needs_output(o) else None for (o, _), y in zip(layers, outputs, strict=True)),
            *(of_x if any(_is_trained(o.A) for o, _ in layers) else ()),
        )
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        count, needs = len(ctx.rules), ctx.needs_input_grad[2:]
        some = next((grad for grad in grads if grad is not None), None)
        if some is None:
            return (None, None, *(None for _ in needs))
        saved, end = _saved(ctx), count * _FIELDS
        hs, ys = saved[end : end + count], saved[end + count : end + 2 * count]
        x = _input_again(ctx.origin, saved[end + 2 * count :])
        again = torch.is_grad_enabled()  # to be differentiated once more
        if again and x is None and all(kept is None for kept in (*hs, *ys)):
            x = some.new_zeros(ctx.shape, requires_grad=True)  # linear in x: any will do
        layers = _layers(x, saved[:end], ctx.rules)
        if again:
            return (None, None, *_plain_grads(layers, needs, grads))
        with no_autocast(some):
            found = _Gradients(layers, needs, ctx.dtype)
            found.through_outputs(grads, ys)
            found.through_products(hs)
        dx = None if found.dx is None else found.dx.view(ctx.shape)
        return (None, None, dx, *found.of_operands())


def _saved(ctx: Any) -> tuple[Any, ...]:
    try:
        return cast("tuple[Any, ...]", ctx.saved_tensors)
    except RuntimeError as error:
        error.add_note(
            "An adapted layer keeps its output for the gradient of a magnitude (DoRA), and its "
            "input. If what follows it works in place (inplace=True), let it not, or run the "
            "forward inside rankwright.kernels.fused_linear.plain_layers()."
        )
        raise


class _Gradients:
    """What a backward gathers.

    Attributes:
        dx: (tokens, in), or None.
    """

    def __init__(self, layers: Sequence[Layer], needs: Sequence[bool], dtype: torch.dtype) -> None:
        self.dx: Tensor | None = None
        self._layers, self._dtype = layers, dtype
        self._needs_x, self._needs_a = needs[0], needs[Operands._fields.index("A") :: _FIELDS]
        self._dus: dict[int, Tensor] = {}  # (tokens, out), of those layers that got a gradient
        self._of: list[dict[str, Tensor]] = [{} for _ in layers]

    def through_outputs(self, grads: Sequence[Tensor | None], ys: Sequence[Tensor | None]) -> None:
        """dL/dm, dL/dn, and the part of dL/dx that comes through the base weights."""
        for i, (o, rule) in enumerate(self._layers):
            grad, y = grads[i], ys[i]
            if grad is None:
                continue
            du = grad.reshape(-1, grad.shape[-1])
            if y is not None:
                self._of[i].update(_magnitude_grads(o, y.reshape(du.shape), du))
            if o.m is not None:
                du = _as(du * _gain(o), du.dtype)
            if self._needs_x:
                self._add_to_x(du, _as(_weight(o, rule), du.dtype))
            self._dus[i] = du

    def through_products(self, hs: Sequence[Tensor | None]) -> None:
        """dL/dA, dL/dB, and the part of dL/dx that comes through the products."""
        for stack in _stacks(self._layers, self._dus):
            ghs = [
                (pair.B.T @ _as(self._dus[pair.layer].T, pair.B.dtype)).mul_(pair.rule.s)
                for pair in stack
            ]
            gh = _joined(ghs)  # (K, tokens)
            places = _places(stack, gh.shape[1], gh.device)
            self._put_grads_of_a(stack, ghs, gh, places)
            for pair in stack:
                h = hs[pair.layer]
                if pair.trained and h is not None:
                    self._of[pair.layer]["B"] = self._grad_of_b(pair, h)
            if self._needs_x:
                self._add_products_to_x(stack, gh, places)

    def of_operands(self) -> Iterator[Tensor | None]:
        """One for each argument of the function behind x."""
        return (of.get(name) for of in self._of for name in Operands._fields[1:])

    def _grad_of_b(self, pair: _Pair, h: Tensor) -> Tensor:
        """(out, r)."""
        B, du = cast(Tensor, self._layers[pair.layer][0].B), self._dus[pair.layer]
        like = torch.empty_like(B, dtype=h.dtype)  # DDP wants B's own strides
        return torch.mul((h @ _as(du, h.dtype)).T, pair.rule.s, out=like)

    def _put_grads_of_a(
        self, stack: _Stack, ghs: list[Tensor], gh: Tensor, places: Tensor | None
    ) -> None:
        wanted = [
            (pair, _rows_of_a(pair, part))
            for pair, part in zip(stack, ghs, strict=True)
            if pair.trained and self._needs_a[pair.layer]  # as it was in the forward
        ]
        if not wanted:
            return
        parts = [rows for _, rows in wanted]
        ranks = [rows.shape[0] for rows in parts]
        whole = sum(ranks) == gh.shape[0]
        found = (gh if whole else _joined(parts)) @ _input(self._layers[0][0].x, stack, places)
        for (pair, _), dA in zip(wanted, found.split_with_sizes(ranks), strict=True):
            self._of[pair.layer]["A"] = dA

    def _add_products_to_x(self, stack: _Stack, gh: Tensor, places: Tensor | None) -> None:
        A = _joined([pair.A for pair in stack])
        if places is None:
            self._add_to_x(gh.T, A)
        else:
            left = (gh * kept_scale(stack[0].rule.dropout)).T
            shape = (gh.shape[1], A.shape[1])
            product = zero_at(places, shape, gh, lambda out: torch.mm(left, A, out=out))
            cast(Tensor, self.dx).add_(product)  # the base weights' part is there

    def _add_to_x(self, left: Tensor, right: Tensor) -> None:
        if self.dx is None:
            self.dx = _as(left @ right, self._dtype)
        else:
            _add_product(self.dx, left, right)


def _layers(x: Any, tensors: Sequence[Any], rules: Sequence[Rule]) -> list[Layer]:
    """The operands of each layer, from the flat arguments."""
    return [
        (Operands(x, *tensors[i * _FIELDS : (i + 1) * _FIELDS]), rule)
        for i, rule in enumerate(rules)
    ]


def _is_trained(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.requires_grad


def _needs_output(o: Operands) -> bool:
    return _is_trained(o.m) or _is_trained(o.n)


def _no_view(y: Tensor) -> Tensor:
    """The tensor itself to autograd: a view among several outputs could not be written to.

    `F.linear` gives a view of a matrix that nobody else has.
    """
    return torch.ops.aten._unsafe_view(y, y.shape) if y._is_view() else y


def _as(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """`tensor.to(dtype)`, not called where it has nothing to do."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def _input_again(origin: Origin | None, kept: Sequence[Tensor]) -> Any:
    """The input as it was kept, or computed from what was kept; None where A is frozen."""
    if not kept:
        return None
    return kept[0] if origin is None else origin.again(kept)


class _Pair(NamedTuple):
    """Factors of a layer that are multiplied as one, the trained ones first.

    Attributes:
        layer: Place of the layer.
        rule: Of the layer.
        A: (K, in).
        B: (out, K).
        trained: Rank of the trained pair in it; 0 if it is not.
        dropped: Whether it sees the dropped input.
    """

    layer: int
    rule: Rule
    A: Tensor
    B: Tensor
    trained: int
    dropped: bool = False


_Stack = list[_Pair]
"""Pairs that see the same input."""


def _stacks(layers: Sequence[Layer], which: Collection[int]) -> list[_Stack]:
    """The pairs of those layers; what is dropped has an input of its own."""
    found: dict[Any, _Stack] = {}
    for i in which:
        for pair in _pairs(i, *layers[i]):
            found.setdefault(i if pair.dropped else pair.A.dtype, []).append(pair)
    return list(found.values())


def _pairs(layer: int, o: Operands, rule: Rule) -> list[_Pair]:
    _, _, _, A, B, A0, B0, *_ = o

    def pair(A: Tensor, B: Tensor, trained: int, dropped: bool = False) -> _Pair:
        dtype = rule.dtype or A.dtype
        return _Pair(layer, rule, _as(A, dtype), _as(B, dtype), trained, dropped)

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


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _weight(o: Operands, rule: Rule) -> Tensor:
    """What the input is multiplied with, (out, in)."""
    W = o.W.T if rule.transposed else o.W
    return W if rule.noise is None else rule.noise.on(W)


def _base_output(o: Operands, rule: Rule) -> Tensor:
    x, W, bias = o.x, _weight(o, rule), o.bias
    if rule.dtype is not None:
        x, W = x.to(rule.dtype), W.to(rule.dtype)
        bias = None if bias is None else bias.to(rule.dtype)
    return F.linear(x, W, bias).contiguous()


def _add_products(layers: Sequence[Layer], outputs: list[Tensor]) -> list[Tensor | None]:
    """Add the products to the outputs; give the trained pairs' A drop(x)^T (r, tokens).

    In place; an output in lower precision than the factors is replaced by a copy in theirs, to be
    rounded at the very end.
    """
    hs: list[Tensor | None] = [None] * len(layers)
    x = layers[0][0].x
    for stack in _stacks(layers, range(len(layers))):
        tokens = x.numel() // x.shape[-1]
        places = _places(stack, tokens, x.device)
        h = _joined([pair.A for pair in stack]) @ _input(x, stack, places).T  # (K, tokens)
        frozen = h.shape[0] - sum(pair.trained for pair in stack)
        for pair, part in zip(stack, _parts(h, stack), strict=True):
            if pair.trained:  # a copy, where a view would keep the frozen rows too
                hs[pair.layer] = part[: pair.trained].clone() if frozen else part
            outputs[pair.layer] = _plus_product(outputs[pair.layer], part, pair)
    return hs


def _parts(h: Tensor, stack: _Stack) -> Sequence[Tensor]:
    return (h,) if len(stack) == 1 else h.split_with_sizes([pair.A.shape[0] for pair in stack])


def _plus_product(y: Tensor, h: Tensor, pair: _Pair) -> Tensor:
    y = _as(y, torch.promote_types(y.dtype, h.dtype))
    _add_product(y.view(-1, y.shape[-1]), h.T, pair.B.T, pair.rule.s)
    return y


def _add_product(total: Tensor, left: Tensor, right: Tensor, s: float = 1.0) -> None:
    """`total += s left right`, as it is multiplied where the dtypes allow it."""
    if total.dtype == left.dtype:
        total.addmm_(left, right, alpha=s)
    else:
        total.add_(left @ right, alpha=s)


def _places(stack: _Stack, tokens: int, device: torch.device) -> Tensor | None:
    """Where the input that a stack sees is dropped; None where it is not."""
    pair = stack[0]
    if not pair.dropped:
        return None
    return dropped_places(tokens * pair.A.shape[1], pair.rule.dropout, pair.rule.seed, device)


def _input(x: Tensor, stack: _Stack, places: Tensor | None) -> Tensor:
    """What a stack sees of the input, (tokens, in)."""
    pair = stack[0]
    x = _as(x.reshape(-1, x.shape[-1]), pair.A.dtype)
    return x if places is None else drop_at(x, pair.rule.dropout, places)


def _gain(o: Operands) -> Tensor:
    """`g = m / n`, (out,)."""
    return cast(Tensor, o.m) / nonzero(cast(Tensor, o.n))


def _scale_rows(o: Operands, u: Tensor) -> Tensor:
    """`b + g (u - b)` as `g u + (1 - g) b`, in place where u is wide enough."""
    g = _gain(o)
    y = _as(u, torch.promote_types(u.dtype, g.dtype)).mul_(g)
    return y if o.bias is None else y.add_((1 - g) * o.bias)


def _magnitude_grads(o: Operands, y: Tensor, dy: Tensor) -> dict[str, Tensor]:
    """`dL/dm = sum dy (y - b) / m` and `dL/dn = -sum dy (y - b) / n`; nothing of the layer's size.

    A row with m = 0 is silent, and its output says nothing about the gradient: `lowrank_linear` is
    not to be used for it.
    """
    m, n = cast(Tensor, o.m), cast(Tensor, o.n)
    product = dy * y if o.bias is None else (y - o.bias).mul_(dy)
    total = product.sum(0, dtype=torch.promote_types(product.dtype, m.dtype))
    found = {"m": total / m.masked_fill(m == 0, 1.0)}
    return {**found, "n": -total / nonzero(n)} if n.requires_grad else found


def _rows_of_a(pair: _Pair, gh: Tensor) -> Tensor:
    """What dL/dA is the product of with the input, (r, tokens)."""
    rows = gh[: pair.trained]
    if pair.rule.mirrored and gh.shape[0] > pair.trained:
        return rows + gh[pair.trained :]  # dy (B + B_0) - dy B_0
    return rows


def _plain_grads(
    layers: Sequence[Layer], needs: Sequence[bool], grads: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """The gradients with a graph of their own.

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
