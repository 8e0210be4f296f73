"""The two factors of every adapted layer as a pair, by module name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from peft.tuners.lora.layer import Embedding, LoraLayer
from torch import Tensor, nn

from rankwright.errors import MethodError
from rankwright.layers.factor import Factor
from rankwright.peft_layers.layers import adapted_layers
from rankwright.peft_layers.weight_view import check_layer, dora_magnitude


@dataclass(frozen=True, eq=False)
class Pair:
    """The factors of one adapted layer that are in training.

    Their product s B A moves the weight W (out, in), or DoRA's direction; the gradients are
    dL/dA = s B^T G and dL/dB = s G A^T with one and the same G (out, in).

    Attributes:
        name: Name of the module.
        A: (r, in); of a convolution (r, in, *kernel), of an embedding (r, vocabulary).
        B: (out, r); of a convolution (out, r, 1, ...), of an embedding (dim, r).
        scaling: The factor s, the layer's own.
        module: The module in the place of A, if it is not PEFT's; it may use only some of its
            ranks.
    """

    name: str
    A: nn.Parameter
    B: nn.Parameter
    scaling: float
    module: Factor | None = None

    @property
    def rank(self) -> int:
        """The rank r in use."""
        return self.A.shape[0] if self.module is None else self.module.width

    def view_A(self, tensor: Tensor) -> Tensor:  # noqa: N802
        """A tensor like A as a matrix (r, in): A itself, or its gradient."""
        matrix = _matrix(tensor)
        return matrix if self.module is None else matrix[: self.rank]

    def view_B(self, tensor: Tensor) -> Tensor:  # noqa: N802
        """A tensor like B as a matrix (out, r)."""
        matrix = _matrix(tensor)
        return matrix if self.module is None else matrix[:, : self.rank]

    def __iter__(self) -> Iterator[nn.Parameter]:
        return iter((self.A, self.B))


def named_pairs(
    layers: nn.Module | Mapping[str, LoraLayer], adapter_name: str = "default"
) -> dict[str, Pair]:
    """The pairs of one adapter.

    A stack (:mod:`rankwright.layers.stacked.layer`) gives its live part. Magnitudes, biases, gates
    and heads are no pairs.

    Args:
        layers: A model with PEFT's LoRA layers, or the layers by module name (`run.layers`).
        adapter_name: Name of the adapter.

    Returns:
        Module name -> pair, in the order of the model.

    Raises:
        MethodError: No layer has the adapter; the update of a layer is not s B A; or a factor
            belongs to two layers.
    """
    if isinstance(layers, nn.Module):
        layers = adapted_layers(layers)
    pairs = {n: _pair(n, m, adapter_name) for n, m in layers.items() if adapter_name in m.scaling}
    if not pairs:
        known = sorted({adapter for layer in layers.values() for adapter in layer.scaling})
        raise MethodError(
            f"no layer has an adapter {adapter_name!r}; expected one of {', '.join(known)}"
        )
    _check_shared(pairs)
    return pairs


def _matrix(tensor: Tensor) -> Tensor:
    return tensor.detach() if tensor.ndim == 2 else tensor.detach().flatten(1)


def _pair(name: str, layer: LoraLayer, adapter: str) -> Pair:
    try:
        check_layer(layer)
    except (TypeError, ValueError) as error:
        raise MethodError(f"{name} has no pair of factors: {error}") from error
    if adapter in layer.lora_variant and dora_magnitude(layer, adapter) is None:
        raise MethodError(
            f"{name} is a {type(layer.lora_variant[adapter]).__name__}, whose update is not s B A; "
            "an optimizer of pairs needs plain LoRA or DoRA"
        )
    scaling = float(layer.scaling[adapter])
    module = None
    if isinstance(layer, Embedding):
        A, B = layer.lora_embedding_A[adapter], layer.lora_embedding_B[adapter]
        embed_scale = layer._get_embed_scale()  # of a scaled word embedding
        scaling *= 1.0 if embed_scale is None else float(embed_scale)
    else:
        factors = layer.lora_A[adapter], layer.lora_B[adapter]
        module = factors[0] if isinstance(factors[0], Factor) else None
        A, B = (f.trained if isinstance(f, Factor) else f.weight for f in factors)
    if not (isinstance(A, nn.Parameter) and isinstance(B, nn.Parameter)):
        raise MethodError(
            f"{name} computes a factor from other parameters (gates, say), so its update is not "
            "s B A of two parameters; an optimizer of pairs needs plain LoRA or DoRA"
        )
    return Pair(name, A, B, scaling, module)


def _check_shared(pairs: Mapping[str, Pair]) -> None:
    owner: dict[int, str] = {}
    for pair in pairs.values():
        for factor in pair:
            other = owner.setdefault(id(factor), pair.name)
            if other != pair.name:
                raise MethodError(
                    f"{pair.name} and {other} share a factor; an optimizer of pairs needs a pair "
                    "of its own for every layer"
                )
