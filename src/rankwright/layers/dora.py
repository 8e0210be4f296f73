"""DoRA on PEFT's own layers, at the price of LoRA.

`y = b + g * (x W^T + s (drop(x) A^T) B^T)`, `g = m / n`, `n = |W + s B A|` row by row: the layer of
"DoRA: Weight-Decomposed Low-Rank Adaptation" (arXiv 2402.09353, eq. 5). What is saved is PEFT's
standard DoRA adapter; only the computation is ours:

- `n` comes from `row_norm`: no `out x in` temporary, no identity matrix, once a step;
- over linear layers all of it is one autograd function (:mod:`rankwright.kernels.lowrank`);
- `m` starts from the stored weight in float32 and `g - 1 = (m - n) / n` is formed in float32, so a
  fresh adapter is the base model bit for bit, in bfloat16 too;
- a zero row of the weight gives a zero output, not NaN;
- dropout acts on the low-rank branch only, as in LoRA. PEFT drops the input of the base branch as
  well, at the price of a second full product. In eval mode, and with dropout 0, both agree.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from peft import PeftModel
from peft.tuners.lora.layer import Embedding, LoraLayer, LoraVariant
from torch import Tensor, nn

from rankwright.algebra.precision import no_autocast, nonzero
from rankwright.algebra.row_norms import RowNorm, attach_row_norm, row_norm
from rankwright.core.export import DoraExport
from rankwright.core.fields import check_field
from rankwright.core.part_registry import register_part
from rankwright.core.slots import Layer
from rankwright.kernels import parameter_epoch
from rankwright.kernels.fused_linear import fuse
from rankwright.kernels.recomputation import transformed
from rankwright.peft_layers.weight_view import (
    CONV_LAYERS,
    LowRankFactors,
    as_rows,
    as_weight,
    base_rows,
    check_layers,
    dora_magnitude,
    low_rank_factors,
    tensor_version,
    weight_version,
)

NormGrad = Literal["detached", "full"]

SILENT = 1e-3  # share of n below which (y - b) / m has lost three digits to the bias


@register_part("dora")
@dataclass(frozen=True)
class Dora(Layer):
    """DoRA: a trained length for every weight row beside a low-rank direction.

    Attributes:
        norm_grad: Whether gradients flow through the row norm n: "detached" (not; DoRA's paper and
            PEFT) or "full" (BiDoRA).
    """

    norm_grad: NormGrad = "detached"

    def __post_init__(self) -> None:
        """Check the field.

        Raises:
            MethodError: It is neither of them.
        """
        kinds = get_args(NormGrad)
        check_field(self, "norm_grad", self.norm_grad in kinds, " or ".join(kinds))

    @property
    def exact_gradient(self) -> bool:
        """Not with a detached norm."""
        return self.norm_grad == "full"

    def export(self) -> DoraExport:
        """See `Layer.export`."""
        return DoraExport()

    def peft_options(self) -> dict[str, Any]:
        """PEFT builds and saves the adapter as DoRA."""
        return {"use_dora": True}

    def install(self, model: PeftModel, adapter_name: str) -> None:
        """Hand the fresh adapter's computation to `FactoredDora`."""
        use_factored_dora(model, adapter_name, self.norm_grad)


class FactoredDora(LoraVariant):
    """The computation of one DoRA adapter on one layer, called by PEFT's `LoraLayer`.

    Row norms are remembered while the parameters they follow from stand still: in training between
    two optimizer steps of an engine (`kernels.parameter_epoch`), in eval mode under `no_grad` as
    long as `tensor_version` sees no change. So edit parameters of an evaluated model under
    `torch.no_grad()`; an edit in place through `.data` goes unseen and needs `forget()`. A pass in
    training mode or with gradients on forgets as well.

    Attributes:
        norm_grad: `"detached"` treats `n` as a constant (arXiv 2402.09353, section 4.3, and PEFT);
            `"full"` differentiates through it.
        frozen_norm: If set, this `(d_out,)` is used as `n`; see `frozen_norms`.
    """

    def __init__(self, norm_grad: NormGrad = "detached") -> None:
        self.norm_grad = norm_grad
        self.frozen_norm: Tensor | None = None
        self._unmerged: Tensor | None = None
        self._has_silent_rows: bool | None = None
        self.forget()

    def forget(self) -> None:
        """Drop everything remembered about weights."""
        self._known: tuple[tuple[object, ...], RowNorm] | None = None

    def supports_lora_conversion(self) -> bool:
        """False: PEFT's `convert_to_lora` would silently drop the magnitude."""
        return False

    def row_norm(self, module: LoraLayer, adapter_name: str) -> Tensor:
        """Row norms `n` of `W + s B A`.

        Args:
            module: The layer.
            adapter_name: Name of the adapter.

        Returns:
            `(d_out,)`, float32 or float64, with a gradient to `A` and `B` if `norm_grad="full"`.
        """
        if self.frozen_norm is not None:
            return self.frozen_norm
        for_gradient = self.norm_grad == "full" and torch.is_grad_enabled()
        factors = low_rank_factors(module, adapter_name)
        with no_autocast(factors.A):
            norm = self._remembered(module, factors, for_gradient)
            return attach_row_norm(norm, base_rows(module), *factors) if for_gradient else norm.n

    def magnitude_operands(
        self, module: LoraLayer, adapter_name: str
    ) -> tuple[Tensor, Tensor] | None:
        """`m` and `n` for `kernels.fused_linear`, each `(d_out,)`.

        The gradient of `m` follows from the output there, and a row with `|m| <= 0.001 n` is too
        silent to tell. On the CPU this is looked up at every call; on a device, which would have
        to be waited for, at the first one: rows that are zero from the start on.

        Args:
            module: The layer.
            adapter_name: Name of the adapter.

        Returns:
            None if there are such rows.
        """
        m, n = (
            cast(Tensor, dora_magnitude(module, adapter_name)),
            self.row_norm(module, adapter_name),
        )
        if self._has_silent_rows is None or m.device.type == "cpu":
            self._has_silent_rows = bool((m.detach().abs() <= SILENT * n.detach()).any())
        return None if self._has_silent_rows else (m, n)

    def forward(
        self,
        module: LoraLayer,
        active_adapter: str,
        x: Tensor,
        result: Tensor,
        **kwargs: Any,  # noqa: ARG002
    ) -> Tensor:
        """The layer's output.

        Args:
            module: The layer.
            active_adapter: Name of the adapter.
            x: Input of the layer.
            result: Output `x W^T + b` of the base layer, channels as the layer has them.
            kwargs: What PEFT passes to other variants; not used.

        Returns:
            `b + g * (x W^T + s B A drop(x))` in the shape and dtype of `result`.
        """
        n = self.row_norm(module, active_adapter)
        m = cast(Tensor, dora_magnitude(module, active_adapter))
        gain_minus_one = _channels(module, (m - n) / nonzero(n))
        lora = result + _low_rank_output(module, active_adapter, x)  # LoRA's own output
        bias = getattr(module.get_base_layer(), "bias", None)
        scaled = lora if bias is None else lora - _channels(module, bias)
        # g - 1 and not g: bfloat16 rounds g = 1.001 to 1.0
        return (lora + gain_minus_one * scaled).to(result.dtype)

    @torch.no_grad()
    def merge_safe(self, module: LoraLayer, active_adapter: str, orig_weight: Tensor) -> Tensor:
        """The merged weight; PEFT refuses it if it holds NaN or Inf.

        Args:
            module: The layer.
            active_adapter: Name of the adapter.
            orig_weight: The layer's weight, kept for `unmerge`.

        Returns:
            `diag(m / n) (W + s B A)` in the layout and dtype of `orig_weight`, rounded once.
        """
        A, B, s = low_rank_factors(module, active_adapter)
        # forward takes n from the base weight, whatever else is merged by now
        with module._unmerged_base_weight(safe_merge=True) as base:
            n = row_norm(as_rows(module, base), A, B, s).n
        m = cast(Tensor, dora_magnitude(module, active_adapter))
        V = as_rows(module, orig_weight).to(n.dtype) + s * (B.to(n.dtype) @ A.to(n.dtype))
        self._unmerged = orig_weight.data
        return as_weight(module, (m / nonzero(n))[:, None] * V).to(orig_weight.dtype)

    def merge_unsafe(self, module: LoraLayer, active_adapter: str, orig_weight: Tensor) -> None:
        """Merge into the layer's weight without a check; see `merge_safe`.

        Args:
            module: The layer.
            active_adapter: Name of the adapter.
            orig_weight: The layer's weight.
        """
        orig_weight.data = self.merge_safe(module, active_adapter, orig_weight)

    def unmerge(self, module: LoraLayer, active_adapter: str, orig_weight: Tensor) -> Tensor:  # noqa: ARG002
        """The weight as it was before the merge, bit for bit.

        The merge keeps the weight it replaced, so a merged but not unloaded model holds both.

        Args:
            module: The layer.
            active_adapter: Name of the adapter.
            orig_weight: The merged weight.

        Returns:
            The weight before the merge, on the device and in the dtype of `orig_weight`.

        Raises:
            RuntimeError: If this object did not merge the adapter.
        """
        if self._unmerged is None:
            raise RuntimeError(f"adapter {active_adapter!r} was not merged by this layer")
        weight, self._unmerged = self._unmerged, None
        self.forget()
        return weight.to(orig_weight)

    def _remembered(
        self, module: LoraLayer, factors: LowRankFactors, for_gradient: bool
    ) -> RowNorm:
        A, B, s = factors
        if transformed():
            self.forget()
            constant = A.detach(), B.detach(), s  # to forward mode as well
            return row_norm(base_rows(module), *constant, for_gradient=for_gradient)
        evaluated = not (module.training or torch.is_grad_enabled())
        epoch = "eval" if evaluated else parameter_epoch.current_epoch()
        versions = weight_version(module), tensor_version(A), tensor_version(B)
        key = (epoch, for_gradient, s, *versions)
        known = self._known  # replicas in other threads write to it as well
        if known is None or known[0] != key or None in key:
            known = key, row_norm(base_rows(module), *factors, for_gradient=for_gradient)
            self._known = known
        return known[1]


def use_factored_dora(
    model: nn.Module,
    adapter_name: str = "default",
    norm_grad: NormGrad = "detached",
    *,
    init_magnitude: bool = True,
) -> None:
    """Let an existing PEFT DoRA adapter be computed by `FactoredDora`.

    Args:
        model: A model with a DoRA adapter: `get_peft_model(base, LoraConfig(use_dora=True, ...))`,
            or one loaded from a file.
        adapter_name: Name of the adapter.
        norm_grad: `"detached"` (DoRA) or `"full"` (BiDoRA): does the norm carry a gradient?
        init_magnitude: Write the magnitudes anew with `reset_magnitudes`. Leave it on for a fresh
            adapter; turn it off for trained magnitudes that were loaded.

    Raises:
        ValueError: If `norm_grad` is unknown, the model has no DoRA adapter of this name, or a
            layer is merged.
        MethodError: If a layer has no single weight matrix, or is a convolution that PEFT's LoRA
            cannot express.
    """
    if norm_grad not in get_args(NormGrad):
        raise ValueError(f"norm_grad={norm_grad!r}: expected one of {get_args(NormGrad)}")
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer) and adapter_name in module.lora_magnitude_vector
    }
    if not layers:
        raise ValueError(
            f"no DoRA adapter {adapter_name!r} in this {type(model).__name__}: "
            "build it with LoraConfig(use_dora=True)"
        )
    check_layers(layers)
    for module in layers.values():
        if module.merged:
            raise ValueError(f"adapters {module.merged_adapters} are merged: unmerge them first")
    for module in layers.values():
        module.lora_variant[adapter_name] = FactoredDora(norm_grad)
    fuse(model)
    if init_magnitude:
        reset_magnitudes(model, adapter_name)


@torch.no_grad()
def reset_magnitudes(model: nn.Module, adapter_name: str = "default") -> None:
    """Set `m = |W + s B A|` in float32 (float64 for a float64 base), from the stored weight.

    The adapted layer then computes plain LoRA; with `B = 0`, `m = |W|` and it is the base layer,
    bit for bit. PEFT computes `m` in the dtype of the adapter while that is still half precision.

    Args:
        model: A model prepared by `use_factored_dora`.
        adapter_name: Name of the adapter.
    """
    for module, dora in _dora_layers(model, adapter_name):
        weight = module.lora_magnitude_vector[adapter_name].weight
        weight.data = dora.row_norm(module, adapter_name).clone().view_as(weight)


@contextmanager
def frozen_norms(model: nn.Module, adapter_name: str = "default") -> Iterator[None]:
    """Hold every row norm `n` at its present value inside the `with` block.

    With a detached norm, a finite difference over `A` and `B` sees the gradient of the layer only
    while `n` stands still.

    Args:
        model: A model prepared by `use_factored_dora`.
        adapter_name: Name of the adapter.

    Yields:
        Nothing.
    """
    layers = _dora_layers(model, adapter_name)
    try:
        for module, dora in layers:
            dora.frozen_norm = dora.row_norm(module, adapter_name).detach()
        yield
    finally:
        for _, dora in layers:
            dora.frozen_norm = None


def _lora_layers(model: nn.Module) -> Iterator[LoraLayer]:
    return (module for module in model.modules() if isinstance(module, LoraLayer))


def _dora_layers(model: nn.Module, adapter_name: str) -> list[tuple[LoraLayer, FactoredDora]]:
    pairs = ((module, module.lora_variant.get(adapter_name)) for module in _lora_layers(model))
    return [(module, dora) for module, dora in pairs if isinstance(dora, FactoredDora)]


def _low_rank_output(module: LoraLayer, adapter_name: str, x: Tensor) -> Tensor:
    """`s B A drop(x)`; the scaling goes on the `r` numbers between the factors."""
    s = module.scaling[adapter_name]
    if isinstance(module, Embedding):  # x holds token ids: nothing to drop
        A, B = module.lora_embedding_A[adapter_name], module.lora_embedding_B[adapter_name]
        scale = module._get_embed_scale()
        return cast(Tensor, (module._embed(x, A.T) * (s if scale is None else s * scale)) @ B.T)
    x = module.lora_dropout[adapter_name](x)
    return cast(Tensor, module.lora_B[adapter_name](module.lora_A[adapter_name](x) * s))


def _channels(module: LoraLayer, vector: Tensor) -> Tensor:
    """`(d_out,)` shaped to multiply the layer's output."""
    if isinstance(module, CONV_LAYERS):
        return vector.view(-1, *(1,) * (module.get_base_layer().weight.dim() - 2))
    return vector
