"""Ranks that differ from layer to layer, in PEFT's bookkeeping."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from peft.tuners.lora.layer import LoraLayer

if TYPE_CHECKING:
    from peft import PeftModel

PREFIX = "base_model.model."
"""What PEFT puts before a module's name."""


def write_ranks(
    model: PeftModel, adapter: str, layers: Mapping[str, LoraLayer], ranks: Mapping[str, int]
) -> None:
    """Bring PEFT's bookkeeping up to date, so that `save_pretrained` writes a plain LoRA.

    `r` is the largest rank, and `lora_alpha` = s r, so that a reader that knows no patterns still
    finds s; layers that differ get an entry under their full, anchored and escaped name.

    Args:
        model: The adapted model.
        adapter: Name of the adapter.
        layers: Its layers by module name; the scaling s of each stays what it is.
        ranks: The rank of each, at least 1.
    """
    config = model.peft_config[adapter]
    for name, layer in layers.items():
        rank = ranks[name]
        layer.r[adapter] = rank
        size = math.sqrt(rank) if config.use_rslora else rank
        layer.lora_alpha[adapter] = float(layer.scaling[adapter]) * size
    largest = max(layers.values(), key=lambda layer: int(layer.r[adapter]))
    config.r, config.lora_alpha = largest.r[adapter], largest.lora_alpha[adapter]
    config.rank_pattern, config.alpha_pattern = {}, {}
    for name, layer in layers.items():
        pattern = f"^{re.escape(name.removeprefix(PREFIX))}"
        if layer.r[adapter] != config.r:
            config.rank_pattern[pattern] = layer.r[adapter]
        if layer.lora_alpha[adapter] != config.lora_alpha:
            config.alpha_pattern[pattern] = layer.lora_alpha[adapter]


def drop_layers(model: PeftModel, adapter: str, names: Iterable[str]) -> None:
    """Give modules their base layer back, and leave them out of what the adapter targets.

    Args:
        model: The adapted model, with this adapter alone.
        adapter: Name of the adapter.
        names: Adapted modules that need no adapter any more.
    """
    config = model.peft_config[adapter]
    given = config.exclude_modules or []
    # a regular expression has to match a whole name; names in a list may be ends of others
    excluded = [given] if isinstance(given, str) else [rf"(.*\.)?{re.escape(end)}" for end in given]
    for name in names:
        model.set_submodule(name, model.get_submodule(name).get_base_layer())
        excluded.append(re.escape(name.removeprefix(PREFIX)))
    config.exclude_modules = "|".join(excluded) or None
