"""The weight of an adapted layer as one matrix.

PEFT stores a weight in four layouts. Here every layer is viewed as `W` `(d_out, d_in)` with one row
per output channel, `A` `(r, d_in)`, `B` `(d_out, r)`, scaling `s` and, for DoRA, a magnitude `m`
`(d_out,)`:

| layer          | stored weight   | `W`             | stored `A`, `B`                 |
| -------------- | --------------- | --------------- | ------------------------------- |
| Linear         | `(out, in)`     | unchanged       | `(r, in)`, `(out, r)`           |
| GPT-2 Conv1D   | `(in, out)`     | transposed      | `(r, in)`, `(out, r)`           |
| Conv1d, 2d, 3d | `(out, in, k)`  | `(out, in * k)` | `(r, in, k)`, `(out, r, 1)`     |
| Embedding      | `(vocab, dim)`  | transposed      | `(r, vocab)`, `(dim, r)`        |

A bare parameter (PEFT's `ParamWrapper`) holds one matrix for each of `E` experts: `W`
`(E, d_out, d_in)`, `A` `(E, r, d_in)`, `B` `(E, d_out, r)`. It is stored as `(E, d_out, d_in)`,
as `(E, d_in, d_out)` if the module has `is_transposed`, or as `(d_out, d_in)` for `E = 1`; its
factors as `(E r, d_in)` and `(d_out, r E)`. Parts refuse it (`check_layer`); exports support it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, cast

import torch
from peft.tuners.lora.layer import (
    Conv1d,
    Conv2d,
    Conv3d,
    Embedding,
    LoraLayer,
    MultiheadAttention,
    ParamWrapper,
)
from peft.utils.integrations import dequantize_bnb_weight, dequantize_module_weight
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from rankwright.algebra.precision import compute_dtype, nonzero
from rankwright.errors import MethodError

CONV_LAYERS = (Conv1d, Conv2d, Conv3d)


class LowRankFactors(NamedTuple):
    """The update `s * B @ A` of one adapter on one layer.

    Attributes:
        A: `(r, d_in)`, a view of the parameter.
        B: `(d_out, r)`, a view of the parameter.
        s: The layer's own scaling (rank and alpha patterns make it differ from layer to layer).
    """

    A: Tensor
    B: Tensor
    s: float


def check_layer(module: LoraLayer) -> None:
    """Refuse a layer whose low-rank branch is not the update of one matrix.

    Args:
        module: A PEFT LoRA layer.

    Raises:
        TypeError: The layer is PEFT's LoRA on `nn.MultiheadAttention` or on a bare parameter.
        ValueError: The layer is a convolution with groups, dilation or padding other than zeros:
            PEFT's low-rank branch ignores these, so it is no update of the layer's kernel.
    """
    if isinstance(module, (MultiheadAttention, ParamWrapper)):
        raise TypeError(
            f"a LoRA layer of type {type(module).__name__} has no single weight matrix; "
            "target Linear, Conv1D, Conv1d/2d/3d or Embedding modules"
        )
    if not isinstance(module, CONV_LAYERS):
        return
    conv = module.get_base_layer()
    if conv.groups > 1 or set(conv.dilation) != {1} or conv.padding_mode != "zeros":
        raise ValueError(
            f"PEFT's low-rank branch of {conv} ignores groups, dilation and padding_mode, so it is "
            "no update of this kernel; leave the module out of target_modules"
        )


def check_layers(layers: Mapping[str, LoraLayer]) -> None:
    """Refuse layers with `check_layer`, naming the first one that it refuses.

    Args:
        layers: PEFT LoRA layers by module name.

    Raises:
        MethodError: `check_layer` refuses one; the message has its name.
    """
    for name, module in layers.items():
        try:
            check_layer(module)
        except (TypeError, ValueError) as error:
            raise MethodError(f"{name}: {error}") from error


def as_rows(module: LoraLayer, weight: Tensor) -> Tensor:
    """View a weight in the layout of the layer as `(d_out, d_in)`.

    Args:
        module: The LoRA layer that the weight belongs to.
        weight: A tensor of the shape of the layer's weight.

    Returns:
        A view `(d_out, d_in)`, or `(E, d_out, d_in)` for a bare parameter.
    """
    if isinstance(module, CONV_LAYERS):
        return weight.flatten(1)
    if isinstance(module, ParamWrapper):
        weight = weight.mT if _stores_transpose(module) else weight
        return weight if weight.ndim == 3 else weight[None]
    return weight.T if _stores_transpose(module) else weight


def as_weight(module: LoraLayer, rows: Tensor) -> Tensor:
    """Convert rows back to the layout of the layer's weight: the inverse of `as_rows`.

    Args:
        module: The LoRA layer that the weight belongs to.
        rows: A tensor of the shape that `as_rows` returns.

    Returns:
        A contiguous tensor in the layout of the layer's weight.
    """
    if isinstance(module, CONV_LAYERS):
        return rows.reshape(module.get_base_layer().weight.shape)
    if isinstance(module, ParamWrapper):
        rows = rows.mT if _stores_transpose(module) else rows
        return rows.reshape(module.get_param().shape).contiguous()
    return (rows.T if _stores_transpose(module) else rows).contiguous()


def base_rows(module: LoraLayer) -> Tensor:
    """Return the frozen base weight as `W` `(d_out, d_in)`, dequantised if need be.

    Args:
        module: A PEFT LoRA layer.

    Returns:
        As returned by `as_rows`, detached; a view of the stored weight unless that is quantised.
    """
    if isinstance(module, ParamWrapper):
        return as_rows(module, module.get_param().detach())
    return as_rows(module, _full_weight(module.get_base_layer()).detach())


def _full_weight(base: nn.Module) -> Tensor:
    if not hasattr(base, "W_q"):  # W_q: HQQ
        weight = cast(Tensor, base.weight)
        if type(weight) in (Tensor, nn.Parameter):
            return weight
        if type(weight).__name__ == "Int8Params":
            # on the CPU, PEFT's function for modules would make the layer lose its scales
            return cast(Tensor, dequantize_bnb_weight(weight, base.state))
    return cast(Tensor, dequantize_module_weight(base))


class _Memory(StorageWeakRef):
    """The memory of a tensor; not equal to other memory that later gets the same address."""

    def __reduce__(self) -> tuple[Callable[[], _Memory], tuple[()]]:
        return _no_memory, ()  # a copy must not release this one's weak reference


def _memory(tensor: Tensor) -> _Memory:
    return _Memory(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def _no_memory() -> _Memory:
    return _memory(torch.empty(0))


def tensor_version(tensor: Tensor) -> tuple[object, ...] | None:
    """Return a key that changes when the tensor is replaced or written to.

    An edit in place through `.data`, or the step of a fused optimizer, does not change it.

    Args:
        tensor: Any tensor, or a view of a parameter.

    Returns:
        The key, or None for an inference tensor, which has no version, and for a tensor that is
        computed for every call (a stack's factor, for example).
    """
    if tensor.is_inference() or not (isinstance(tensor, nn.Parameter) or tensor._is_view()):
        return None
    return _memory(tensor), tensor.data_ptr(), tensor._version, tensor.dtype, tensor.device


def weight_version(module: LoraLayer) -> tuple[object, ...] | None:
    """Return the `tensor_version` of the base weight as stored, packed or not.

    Args:
        module: A PEFT LoRA layer.

    Returns:
        See `tensor_version`.
    """
    base = module.get_base_layer()
    return tensor_version(base.W_q if hasattr(base, "W_q") else base.weight)  # W_q: HQQ


def low_rank_factors(module: LoraLayer, adapter_name: str) -> LowRankFactors:
    """Return `A`, `B` and `s` of one adapter as matrices; gradients flow to the parameters.

    Args:
        module: A PEFT LoRA layer.
        adapter_name: Name of the adapter.

    Returns:
        Views `A` `(r, d_in)` and `B` `(d_out, r)`, or `(E, r, d_in)` and `(E, d_out, r)` for a bare
        parameter, and the scaling.
    """
    scaling = float(module.scaling[adapter_name])
    if isinstance(module, Embedding):
        A, B = module.lora_embedding_A[adapter_name], module.lora_embedding_B[adapter_name]
    else:
        A, B = module.lora_A[adapter_name].weight, module.lora_B[adapter_name].weight
    if isinstance(module, ParamWrapper):
        A = A.unflatten(0, (module.num_experts, -1))
        return LowRankFactors(A, B.unflatten(1, (-1, module.num_experts)).permute(2, 0, 1), scaling)
    return LowRankFactors(A.flatten(1), B.flatten(1), scaling)


def dora_magnitude(module: LoraLayer, adapter_name: str) -> Tensor | None:
    """Return the DoRA magnitude `m` of one adapter; gradients flow to its parameter.

    Args:
        module: A PEFT LoRA layer.
        adapter_name: Name of the adapter.

    Returns:
        `(d_out,)`, or None for an adapter without one.
    """
    if adapter_name not in module.lora_magnitude_vector:
        return None
    weight: Tensor = module.lora_magnitude_vector[adapter_name].weight
    return weight.flatten()


@torch.no_grad()
def effective_weight(module: LoraLayer, adapter_name: str) -> Tensor:
    """Return the dense weight `W'` that the adapted layer computes with.

    It is the slow reference, and used by exports.

    `W' = W + s B A` for LoRA and `W' = diag(m / n) (W + s B A)` with `n` the row norms of the
    bracket for DoRA (arXiv 2402.09353, eq. 5). A zero row stays zero.

    Args:
        module: A PEFT LoRA layer, not merged.
        adapter_name: Name of the adapter.

    Returns:
        `W'` in the layout of the layer's own weight, float64 if the base or a factor is, else
        float32. The scaling of a scaled word embedding is not part of it.

    Raises:
        TypeError: The layer has no single weight matrix, or another LoRA variant is active.
        ValueError: The layer is merged, or is a convolution that PEFT's LoRA cannot express.
    """
    check_layer(module)
    if module.merged:
        raise ValueError(f"adapters {module.merged_adapters} are merged into the layer: unmerge()")
    W, (A, B, s), m = base_rows(module), *_adapter(module, adapter_name)
    dtype = compute_dtype(W, A, B)
    V = W.to(dtype) + s * (B.to(dtype) @ A.to(dtype))
    if m is None:
        return as_weight(module, V)
    n = torch.linalg.vector_norm(V, dim=1)
    return as_weight(module, (m.to(dtype) / nonzero(n))[:, None] * V)


def _adapter(module: LoraLayer, adapter_name: str) -> tuple[LowRankFactors, Tensor | None]:
    m = dora_magnitude(module, adapter_name)
    if m is None and adapter_name in module.lora_variant:
        variant = type(module.lora_variant[adapter_name]).__name__
        raise TypeError(f"adapter {adapter_name!r} is a {variant}; its weight is not W + s B A")
    return low_rank_factors(module, adapter_name), m


def _stores_transpose(module: LoraLayer) -> bool:
    if isinstance(module, ParamWrapper):
        return module.get_param().ndim == 3 and bool(
            getattr(module.get_base_layer(), "is_transposed", False)
        )
    return isinstance(module, Embedding) or bool(getattr(module, "fan_in_fan_out", False))
