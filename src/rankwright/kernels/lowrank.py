r"""The adapted linear layer as one autograd function, for the least work and the least memory.

    u = x W^T + b + s (drop(x) A^T B^T + x A_0^T B_0^T)                     LoRA, A_0 B_0 frozen
    y = b + g (u - b),   g = m / n                                          DoRA, row by row

W (out, in), b (out), A (r, in), B (out, r), A_0 (R, in), B_0 (out, R), m and n (out). PEFT computes
this as six separate operations. Here

- layers that see the same x are one function: they share the product with their factors A, the sum
  of their gradients of x, and the x that is kept;
- the matrix products add into the base layer's output and into the gradient of x directly, with the
  scaling folded in; A and A_0, B and B_0 are multiplied as one;
- kept for the backward are x, or its origin if that is known (only where A is trained), and the r
  numbers per token between the factors (only where B is trained): not the dropped input, and no
  second output. The gradient of a magnitude follows from the output,
  `dL/dm = sum dL/dy (y - b) / m`, which the next operation often keeps anyway;
- dropout is drawn from a seed, and again in the backward;
- thin factors stand on the left of their products, where the libraries are two to five times
  faster than on the right (measured with MKL at r = 8).

For a second derivative it falls back to the plain operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function

from rankwright.algebra.precision import no_autocast
from rankwright.kernels.gradients import Gradients, plain_grads
from rankwright.kernels.operands import (
    TENSORS,
    Layer,
    Operands,
    Rule,
    base_output,
    in_dtype,
    is_trained,
    needs_output,
    scale_rows,
    without_view,
)
from rankwright.kernels.products import (
    add_products,
)
from rankwright.kernels.recomputation import Origin


def lowrank_linear(operands: Operands, rule: Rule, origin: Origin | None = None) -> Tensor:
    """Return the layer's output.

    Args:
        operands: See `Operands`.
        rule: See `Rule`.
        origin: The origin of x; x is then recomputed in the backward instead of kept.

    Returns:
        (..., out), in the dtype of the base layer's output.
    """
    return lowrank_linears([(operands, rule)], origin)[0]


def lowrank_linears(layers: Sequence[Layer], origin: Origin | None = None) -> tuple[Tensor, ...]:
    """Return the outputs of layers that see the same input.

    Args:
        layers: Operands, all with the same x, and rules.
        origin: See `lowrank_linear`.

    Returns:
        For each layer the result of `lowrank_linear`, except for the order of summation.
    """
    rules = tuple(rule for _, rule in layers)
    tensors = (tensor for operands, _ in layers for tensor in operands[1:])
    x = layers[0][0].x
    outputs = _LowRankLinears.apply(rules, origin, x, *tensors)  # type: ignore[no-untyped-call]
    return cast("tuple[Tensor, ...]", outputs)


# The function ------------------------------------------------------------------------------------


class _LowRankLinears(Function):
    @staticmethod
    def forward(
        ctx: Any, rules: tuple[Rule, ...], origin: Origin | None, x: Tensor, *tensors: Any
    ) -> tuple[Tensor, ...]:
        layers = _layers(x, tensors, rules)
        with no_autocast(x):
            outputs = [base_output(o, rule) for o, rule in layers]
            dtypes = [y.dtype for y in outputs]  # `add_products` may widen the outputs
            hs = add_products(layers, outputs)
            for i, (o, _) in enumerate(layers):
                scaled = outputs[i] if o.m is None else scale_rows(o, outputs[i])
                outputs[i] = without_view(in_dtype(scaled, dtypes[i]))
        ctx.set_materialize_grads(False)  # the backward skips outputs without a gradient
        ctx.rules, ctx.origin, ctx.shape, ctx.dtype = rules, origin, x.shape, x.dtype
        of_x = (x,) if origin is None else origin.inputs
        ctx.save_for_backward(
            *tensors,
            *(h if is_trained(o.B) else None for (o, _), h in zip(layers, hs, strict=True)),
            *(y if needs_output(o) else None for (o, _), y in zip(layers, outputs, strict=True)),
            *(of_x if any(is_trained(o.A) for o, _ in layers) else ()),
        )
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        count, needs = len(ctx.rules), ctx.needs_input_grad[2:]
        some = next((grad for grad in grads if grad is not None), None)
        if some is None:
            return (None, None, *(None for _ in needs))
        saved, end = _saved(ctx), count * TENSORS
        hs, ys = saved[end : end + count], saved[end + count : end + 2 * count]
        x = _input_again(ctx.origin, saved[end + 2 * count :])
        again = torch.is_grad_enabled()  # a second derivative is wanted
        if again and x is None and all(kept is None for kept in (*hs, *ys)):
            x = some.new_zeros(ctx.shape, requires_grad=True)  # linear in x: the same at any x
        layers = _layers(x, saved[:end], ctx.rules)
        if again:
            return (None, None, *plain_grads(layers, needs, grads))
        with no_autocast(some):
            found = Gradients(layers, needs, ctx.dtype)
            found.through_outputs(grads, ys)
            found.through_products(hs)
        dx = None if found.dx is None else found.dx.view(ctx.shape)
        return (None, None, dx, *found.of_operands())


def _saved(ctx: Any) -> tuple[Any, ...]:
    try:
        return cast("tuple[Any, ...]", ctx.saved_tensors)
    except RuntimeError as error:
        error.add_note(
            "An adapted layer keeps its input, and its output for the gradient of a magnitude "
            "(DoRA). If the operation after it works in place (inplace=True), turn that off, or "
            "run the forward inside rankwright.kernels.fused_linear.plain_layers()."
        )
        raise


def _layers(x: Any, tensors: Sequence[Any], rules: Sequence[Rule]) -> list[Layer]:
    """Return the operands and the rule of each layer, from the flat arguments."""
    return [
        (Operands(x, *tensors[i * TENSORS : (i + 1) * TENSORS]), rule)
        for i, rule in enumerate(rules)
    ]


def _input_again(origin: Origin | None, kept: Sequence[Tensor]) -> Any:
    """Return the input, kept or recomputed from its origin; None if every A is frozen."""
    if not kept:
        return None
    return kept[0] if origin is None else origin.again(kept)
