"""Export the whole model with the adapter merged into its weights."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import cast

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rankwright.core.method import Method
from rankwright.peft_layers.rank_patterns import weight_name
from rankwright.peft_layers.weight_change import weight_change
from rankwright.peft_layers.weight_view import as_weight, base_rows
from rankwright.training.export.comparison import check_same, logit_difference
from rankwright.training.export.errors import ExportError
from rankwright.training.export.probe import Probe
from rankwright.training.export.report import ExportReport, WeightErrors
from rankwright.training.export.source import Source, base_without_adapter
from rankwright.training.export.staging import staged
from rankwright.training.progress_bars import no_progress_bars


def export_merged(
    model: PeftModel,
    path: str | os.PathLike[str],
    *,
    method: Method | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    probe: Probe | None = None,
    tolerance: float | None = None,
    overwrite: bool = False,
) -> ExportReport:
    """Write the whole model with the adapter merged into its weights, in safetensors.

    `W + dW` is formed in float64 and rounded once to the dtype of `W`. Word embeddings that were
    tied and are no longer equal are untied in the written config. A method may merge in a way of
    its own (`Export.merge`).

    Args:
        model: A transformers model with one adapter, unmerged, not quantised.
        path: See `export_adapter`.
        method: See `export_adapter`.
        tokenizer: Written beside the model.
        probe: See `export_adapter`.
        tolerance: See `export_adapter`.
        overwrite: See `export_adapter`.

    Returns:
        What was written, with its measured differences.

    Raises:
        ExportError: See `export_adapter`; or the base is quantised or not a transformers model, a
            merged weight is NaN or infinite, or weights other than word embeddings are tied.
    """
    source = Source.of(model, probe, method)
    form = source.form("merged")
    if not isinstance(source.base, PreTrainedModel):
        raise ExportError(
            f"cannot write a merged {type(source.base).__name__}: it is not a transformers model, "
            "so nothing could load it; export the adapter instead"
        )
    with staged(path, overwrite) as folder, no_progress_bars():
        merged, errors = merged_model(source)
        merged.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        allowed = source.tolerance(tolerance) if form.accuracy == "exact" else math.inf
        difference = check_merged(source, folder, merged, allowed)
    return source.report("merged", Path(path), None, errors, difference, form)


@torch.no_grad()
def merged_model(source: Source) -> tuple[PreTrainedModel, WeightErrors]:
    """Return a separate model with the adapter merged in, and the errors by rounding.

    Raises:
        ExportError: A base weight is quantised, a merged one is NaN or infinite, or weights other
            than word embeddings are tied.
    """
    given = source.export.merge(source.model, source.adapter)
    if given is not None:
        return cast(PreTrainedModel, given), WeightErrors(known=False)
    merged = cast(PreTrainedModel, base_without_adapter(source, heads=True))
    errors = WeightErrors()
    for name, layer in source.layers.items():
        place, _, parameter = weight_name(name, layer).rpartition(".")
        stored, W = merged.get_submodule(place).get_parameter(parameter), base_rows(layer)
        if not stored.is_floating_point():
            raise ExportError(
                f"the base weight of {name} is quantised ({stored.dtype}); load the base model in "
                "bfloat16, put the adapter on it and export that"
            )
        change = weight_change(layer, source.adapter)
        rows = (W.double() + change).to(W.dtype)
        if not rows.isfinite().all():
            raise ExportError(
                f"the merged weight of {name} is NaN or infinite in {W.dtype}; load the base model "
                "in a wider dtype, or export an earlier checkpoint"
            )
        errors.add(name, change, rows.double() - W.double())
        merged_weight = nn.Parameter(as_weight(layer, rows), requires_grad=False)
        setattr(merged.get_submodule(place), parameter, merged_weight)
    _untie(cast(PreTrainedModel, base_without_adapter(source)), merged)
    return merged, errors


def _untie(base: PreTrainedModel, merged: PreTrainedModel) -> None:
    """Note in the config to write that tied weights have become different."""
    broken = [
        names
        for names in _tied(base)
        if len({id(merged.get_parameter(name)) for name in names}) > 1
    ]
    if not broken:
        return
    ends = (base.get_input_embeddings(), base.get_output_embeddings())
    words = {id(end.weight) for end in ends if end is not None}
    for names in broken:
        if id(base.get_parameter(names[0])) not in words:
            raise ExportError(
                f"{' and '.join(names)} are one weight in the base model and differ once merged; "
                "export the adapter, or leave them out of target_modules"
            )
    merged.config.tie_word_embeddings = False
    merged.all_tied_weights_keys = {}


def _tied(model: nn.Module) -> list[list[str]]:
    """Return groups of names of parameters that are one tensor."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [group for group in names.values() if len(group) > 1]


def check_merged(source: Source, folder: Path, merged: PreTrainedModel, tolerance: float) -> float:
    """Load a written model by transformers, compare it, and return the logit difference.

    Raises:
        ExportError: It cannot be loaded, or is not the model in hand.
    """
    with torch.random.fork_rng():
        try:
            loaded = type(merged).from_pretrained(folder)
        except Exception as error:
            raise ExportError(f"transformers cannot load what was written: {error}") from error
    check_same(merged.state_dict(), loaded.state_dict(), "merged model")
    loaded = loaded.to(source.logits.device)
    return logit_difference(source.logits_of(loaded), source.logits, tolerance)
