"""The whole model with the adapter merged into its weights."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel

from rankwright.peft_layers.rank_patterns import weight_name
from rankwright.peft_layers.weight_change import weight_change
from rankwright.peft_layers.weight_view import as_weight, base_rows
from rankwright.training.export.check import Errors, ExportError, check_same, logit_difference
from rankwright.training.export.source import Source, unloaded


@torch.no_grad()
def merged_model(source: Source) -> tuple[PreTrainedModel, Errors]:
    """A model of its own with `W + dW`, formed in float64 and rounded once, and what that lost.

    Raises:
        ExportError: A base weight is quantised, a merged one is NaN or infinite, or weights other
            than word embeddings are tied.
    """
    merged = cast(PreTrainedModel, unloaded(source, heads=True))
    errors = Errors()
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
    _untie(cast(PreTrainedModel, unloaded(source)), merged)
    return merged, errors


def _untie(base: PreTrainedModel, merged: PreTrainedModel) -> None:
    """Let the written config say where tied weights are no longer one."""
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
    """Names of parameters that are one tensor."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [group for group in names.values() if len(group) > 1]


def check_merged(source: Source, folder: Path, merged: PreTrainedModel, tolerance: float) -> float:
    """The logit difference between what transformers loads from the folder and the model in hand.

    Raises:
        ExportError: It cannot be loaded, or is not the same.
    """
    with torch.random.fork_rng():
        try:
            loaded = type(merged).from_pretrained(folder)
        except Exception as error:
            raise ExportError(f"transformers cannot load what was written: {error}") from error
    check_same(merged.state_dict(), loaded.state_dict(), "merged model")
    loaded = loaded.to(source.logits.device)
    return logit_difference(source.logits_of(loaded), source.logits, tolerance)
