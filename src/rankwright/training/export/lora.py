"""Export any adapter as a plain LoRA adapter, approximated by truncation where it has to be."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor

from rankwright.algebra.precision import compute_dtype
from rankwright.algebra.truncation import truncated_product, truncated_svd
from rankwright.core.export import Form, approximate
from rankwright.core.method import Method
from rankwright.peft_layers.rank_patterns import PREFIX, target_name, write_patterns
from rankwright.peft_layers.weight_change import factor_tensors, weight_change
from rankwright.peft_layers.weight_view import dora_magnitude, low_rank_factors
from rankwright.training.export.adapter import check_adapter, quiet_embeddings
from rankwright.training.export.errors import ExportError
from rankwright.training.export.probe import Probe
from rankwright.training.export.report import ExportReport, WeightErrors
from rankwright.training.export.source import Source
from rankwright.training.export.staging import staged

Factors = Mapping[str, tuple[Tensor, Tensor]]
"""Layer name -> `A` and `B`, with scaling 1, in the shapes of `low_rank_factors`."""


def export_lora(
    model: PeftModel,
    path: str | os.PathLike[str],
    rank: int | None = None,
    *,
    method: Method | None = None,
    probe: Probe | None = None,
    tolerance: float | None = None,
    overwrite: bool = False,
    finish: Callable[[Path], None] | None = None,
) -> ExportReport:
    """Write a plain LoRA adapter of rank `rank` at most.

    A LoRA adapter without larger ranks is written bit for bit. Otherwise every layer gets the best
    approximation of its change `dW` of that rank (Eckart-Young): of a LoRA through its factors, of
    a DoRA, magnitude included, from the dense `(g - 1) W + g s B A`, which has full rank in
    general. The scaling is then 1, folded into B where factors are kept. A method may compute
    factors of its own (`Export.lora_factors`).

    Args:
        model: See `export_adapter`.
        path: See `export_adapter`.
        rank: Largest rank; a smaller layer gets its full rank. None keeps the ranks of a LoRA
            adapter; a DoRA adapter needs a number.
        method: See `export_adapter`.
        probe: See `export_adapter`.
        tolerance: See `export_adapter`; applies if nothing is truncated. A truncation is judged by
            the errors in the report.
        overwrite: See `export_adapter`.
        finish: See `export_adapter`.

    Returns:
        What was written, with its measured differences; errors are of the factors as written.

    Raises:
        ExportError: See `export_adapter`; or the rank is not a positive integer, or is missing.
    """
    source = Source.of(model, probe, method)
    form = source.form("lora")
    source.check_base()
    _check_rank(rank)
    with staged(path, overwrite) as folder, quiet_embeddings():
        lora = _plain_lora(source, form, rank)
        lora.save(folder)
        exact, least = lora.form.accuracy == "exact", source.tolerance(tolerance)
        difference = check_adapter(source, folder, lora.tensors, least, exact=exact)
        if finish is not None:
            finish(folder)
    return source.report("lora", Path(path), lora.rank, lora.errors, difference, lora.form)


@dataclass(frozen=True)
class _PlainLora:
    """A plain LoRA adapter, ready to be written."""

    config: LoraConfig
    tensors: dict[str, Tensor]
    rank: int
    errors: WeightErrors
    form: Form

    def save(self, folder: Path) -> None:
        """Write the adapter as PEFT does."""
        self.config.save_pretrained(str(folder))
        save_file(
            {key: tensor.cpu().clone() for key, tensor in self.tensors.items()},
            folder / "adapter_model.safetensors",
            metadata={"format": "pt"},
        )


def _check_rank(rank: int | None) -> None:
    if rank is not None and (not isinstance(rank, int) or rank < 1):
        raise ExportError(f"rank = {rank!r}: expected an integer of at least 1")


def _plain_lora(source: Source, form: Form, rank: int | None) -> _PlainLora:
    """Keep the factors if they are within the rank; otherwise approximate the change."""
    factors = source.export.lora_factors(source.model, source.adapter, rank, source.probe)
    if factors is not None:
        return _from_factors(source, factors, form)
    if not source.is_plain:
        if rank is None:
            raise ExportError(
                "the change that a DoRA adapter makes has full rank in general: state the rank of "
                f"the LoRA, {2 * source.rank()} say, or export the adapter or the merged model"
            )
    elif rank is None or source.rank() <= rank:
        config, errors = _plain_config(source.config), WeightErrors.zero(source.layers)
        tensors = {**_tensors(source, of_layers=False), **_tensors(source, of_layers=True)}
        return _PlainLora(config, tensors, source.rank(), errors, form)
    if form.accuracy == "exact":
        form = approximate(f"every change of a larger rank is truncated to rank {rank}")
    return _from_factors(source, _best_factors(source, rank), form)


@torch.no_grad()
def _best_factors(source: Source, rank: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Approximate the change of every layer by factors of at most that rank."""
    return {
        name: _best_factors_of(layer, source.adapter, rank) for name, layer in source.layers.items()
    }


def _best_factors_of(layer: LoraLayer, adapter: str, rank: int) -> tuple[Tensor, Tensor]:
    """Approximate one layer, in float32 or float64; experts one by one."""
    A, B, s = low_rank_factors(layer, adapter)
    dtype = compute_dtype(A, B)
    A, B = A.to(dtype), s * B.to(dtype)
    rank = min(rank, A.shape[-1], B.shape[-2])
    if dora_magnitude(layer, adapter) is not None:
        best = truncated_svd(weight_change(layer, adapter).to(dtype), rank)
        return best.A, best.B
    if A.shape[-2] <= rank:
        return A, B
    if A.ndim == 2:
        best = truncated_product(A, B, rank)
        return best.A, best.B
    experts = [truncated_product(*pair, rank) for pair in zip(A, B, strict=True)]
    return torch.stack([e.A for e in experts]), torch.stack([e.B for e in experts])


def _tensors(source: Source, *, of_layers: bool) -> dict[str, Tensor]:
    """Return the adapter's LoRA tensors, or its heads; nothing else that a layer part has added."""
    layers = tuple(f"{PREFIX}{name}." for name in source.layers)
    return {
        key: tensor
        for key, tensor in source.adapter_tensors().items()
        if key.startswith(layers) == of_layers and (not of_layers or ".lora_" in key)
    }


@torch.no_grad()
def _from_factors(source: Source, factors: Factors, form: Form) -> _PlainLora:
    """Put factors in the place of the adapter's own; heads are kept."""
    tensors = _tensors(source, of_layers=False)
    ranks, errors = {}, WeightErrors(known=source.changes_weights)
    for name, (A, B) in factors.items():
        layer = source.layers[name]
        if source.changes_weights:
            errors.add(name, weight_change(layer, source.adapter), B.double() @ A.double())
        ranks[target_name(name, layer)] = A.shape[-2]
        for key, tensor in factor_tensors(layer, A, B).items():
            tensors[f"{PREFIX}{name}.{key}"] = tensor
    largest = max(ranks.values())
    changes = {"r": largest, "lora_alpha": largest, "use_dora": False, "use_rslora": False}
    config = _plain_config(source.config, **changes)
    write_patterns(config, ranks, ranks)
    return _PlainLora(config, tensors, largest, errors, form)


def _plain_config(config: Any, **changes: Any) -> LoraConfig:
    """Return a LoRA config with the same targets and heads, which starts no init when loaded."""
    if type(config) is not LoraConfig:  # a type of the method's own
        names = [f.name for f in dataclasses.fields(LoraConfig) if f.init and f.name != "peft_type"]
        shared = {name: getattr(config, name) for name in names if hasattr(config, name)}
        plain = LoraConfig(**copy.deepcopy(shared))
    else:
        plain = copy.deepcopy(config)
    for name, value in {"inference_mode": True, "init_lora_weights": True, **changes}.items():
        setattr(plain, name, value)
    return plain
