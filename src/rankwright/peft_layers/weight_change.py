"""The change that an adapter makes to its layer's weight, in float64; factors in PEFT's layout.

`weight_view` lists the layouts. The change is not formed as `W' - W`: that difference loses the
digits that `W` and `W'` share, some three or four of float32's seven.
"""

from __future__ import annotations

import torch
from peft.tuners.lora.layer import Embedding, LoraLayer, MultiheadAttention, ParamWrapper
from torch import Tensor, nn

from rankwright.algebra.precision import nonzero
from rankwright.errors import MethodError
from rankwright.peft_layers.weight_view import (
    CONV_LAYERS,
    base_rows,
    check_layer,
    dora_magnitude,
    low_rank_factors,
)


def check_adapted(module: LoraLayer, adapter_name: str) -> None:
    """Refuse a layer whose adapter is not a change of its weight.

    Args:
        module: A PEFT LoRA layer.
        adapter_name: Name of the adapter.

    Raises:
        TypeError: The layer is a whole attention module, or another LoRA variant is active.
        ValueError: The layer is merged, its adapter has a bias, or it is a convolution that PEFT's
            LoRA cannot express.
    """
    if not isinstance(module, ParamWrapper):
        check_layer(module)
    if module.merged:
        raise ValueError(f"adapters {module.merged_adapters} are merged into the layer: unmerge()")
    if module.lora_bias.get(adapter_name):
        raise ValueError("lora_bias=True gives the layer a bias that is no part of its weight")
    if adapter_name in module.lora_variant and dora_magnitude(module, adapter_name) is None:
        variant = type(module.lora_variant[adapter_name]).__name__
        raise TypeError(f"adapter {adapter_name!r} is a {variant}; its weight is not W + s B A")


def check_linear(name: str, module: LoraLayer, adapter_name: str, what: str) -> None:
    """Refuse a layer that is not the sum of a base and one product of linear factors.

    Args:
        name: Name of the module, for the message.
        module: A LoRA layer.
        adapter_name: Name of the adapter.
        what: The operation, for the message: a clause before "of linear layers only".

    Raises:
        MethodError: The layer is an embedding, a convolution, an attention module or a bare
            parameter, or `check_adapted` refuses it.
    """
    factors = [dict(f.items()).get(adapter_name) for f in (module.lora_A, module.lora_B)]
    linear = all(isinstance(factor, nn.Linear) for factor in factors)
    if not linear or isinstance(module, (MultiheadAttention, ParamWrapper)):
        kinds = {type(f).__name__ for f in factors if f is not None} - {"Linear"}
        made_of = f" whose factors are {' and '.join(sorted(kinds))}" if kinds else ""
        raise MethodError(
            f"{name} is a {type(module.get_base_layer()).__name__}{made_of}, and {what} of linear "
            "layers only. Leave it out of target_modules"
        )
    try:
        check_adapted(module, adapter_name)
    except (TypeError, ValueError) as error:
        raise MethodError(f"{name}: {error}") from error


@torch.no_grad()
def weight_change(module: LoraLayer, adapter_name: str) -> Tensor:
    """Return `W' - W` of one adapter on one layer.

    `s B A` for LoRA and `(g - 1) W + g s B A` for DoRA, where `g = m / n` and `n` are the row norms
    of `W + s B A` (arXiv 2402.09353, eq. 5). A zero row of that sum stays zero.

    Args:
        module: A PEFT LoRA layer, not merged.
        adapter_name: Name of the adapter.

    Returns:
        `(d_out, d_in)`, or `(E, d_out, d_in)` for a bare parameter; float64, on the layer's device.

    Raises:
        TypeError: See `check_adapted`.
        ValueError: See `check_adapted`.
    """
    check_adapted(module, adapter_name)
    A, B, s = low_rank_factors(module, adapter_name)
    update = s * (B.double() @ A.double())
    m = dora_magnitude(module, adapter_name)
    if m is None:
        return update
    W = base_rows(module).double()
    n = torch.linalg.vector_norm(W + update, dim=1)
    g = m.double() / nonzero(n)
    return (g - 1)[:, None] * W + g[:, None] * update


def factor_tensors(module: LoraLayer, A: Tensor, B: Tensor) -> dict[str, Tensor]:
    """Return `A` and `B` in the layout and under the names of PEFT's adapter file.

    Args:
        module: The layer of the factors.
        A: `(r, d_in)`, or `(E, r, d_in)` for a bare parameter; any rank.
        B: `(d_out, r)`, or `(E, d_out, r)`.

    Returns:
        Name below the module's (`lora_A.weight`, ...) -> contiguous tensor.
    """
    if isinstance(module, Embedding):
        return {"lora_embedding_A": A.contiguous(), "lora_embedding_B": B.contiguous()}
    if isinstance(module, ParamWrapper):
        A, B = A.flatten(0, 1), B.permute(1, 2, 0).flatten(1)
    if isinstance(module, CONV_LAYERS):
        kernel = module.get_base_layer().weight.shape[1:]
        A, B = A.reshape(len(A), *kernel), B.reshape(*B.shape, *(1,) * (len(kernel) - 1))
    return {"lora_A.weight": A.contiguous(), "lora_B.weight": B.contiguous()}
