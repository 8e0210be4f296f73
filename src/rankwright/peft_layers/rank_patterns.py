"""Ranks and scalings that differ from layer to layer, in PEFT's bookkeeping.

PEFT applies the first key of a pattern that matches a module, in the order of the mapping, but
sorts the keys when it writes `adapter_config.json`. Every module whose value differs from the
common one therefore gets an entry that matches it alone, so the order does not matter.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from peft import LoraConfig
from peft.tuners.lora.layer import LoraLayer, ParamWrapper

from rankwright.errors import MethodError, did_you_mean

if TYPE_CHECKING:
    from peft import PeftModel

PREFIX = "base_model.model."
"""The prefix that PEFT adds to module names."""


def target_name(name: str, layer: LoraLayer) -> str:
    """Return the name of the adapted module, or adapted parameter, in the base model.

    Args:
        name: Name of the layer, with `PREFIX` or without.
        layer: The layer.
    """
    name = name.removeprefix(PREFIX)
    if isinstance(layer, ParamWrapper):  # several parameters of a module are wrapped in turn
        return f"{name.replace('.base_layer', '')}.{layer.parameter_name}"
    return name


def weight_name(name: str, layer: LoraLayer) -> str:
    """Return the name of the base model's parameter that a layer adapts; see `target_name`."""
    target = target_name(name, layer)
    return target if isinstance(layer, ParamWrapper) else f"{target}.weight"


def entry_for(target: str) -> str:
    """Return a key of `rank_pattern` or `alpha_pattern` that matches only this target."""
    return f"^{re.escape(target)}$"


def compiled(kind: str, key: str) -> re.Pattern[str]:
    """Compile a key as PEFT does to match it against module names.

    Args:
        kind: Name of the pattern, for messages.
        key: The key.

    Raises:
        MethodError: It is not a regular expression.
    """
    try:
        return re.compile(rf"(.*\.)?({key})$")
    except re.error as error:
        raise MethodError(
            f"{kind} key {key!r} is not a regular expression ({error}); expected the end of a "
            "module's name, or an expression that matches one"
        ) from error


def check_patterns(kind: str, keys: Sequence[str], targets: Sequence[str]) -> None:
    """Refuse a key that never takes effect.

    Args:
        kind: Name of the pattern, for messages.
        keys: The keys, in the order in which they are tried.
        targets: Names of the adapted modules and parameters, from `target_name`.

    Raises:
        MethodError: A key matches no target, or only targets that earlier keys match.
    """
    ends = {target.rpartition(".")[2] for target in targets}
    taken: dict[str, str] = {}  # target -> the key that decides on it
    for key in keys:
        pattern = compiled(kind, key)
        matched = [target for target in targets if pattern.match(target)]
        if not matched:
            raise MethodError(
                f"{kind} key {key!r} matches no adapted module; expected the end of one of "
                f"{', '.join(sorted(ends))}{did_you_mean(key, ends)}"
            )
        if all(target in taken for target in matched):
            before = dict.fromkeys(repr(taken[target]) for target in matched)
            raise MethodError(
                f"{kind} key {key!r} never takes effect: the first match counts, and "
                f"{' and '.join(before)} before it cover all that it matches; put it first, or "
                "remove it"
            )
        taken = dict.fromkeys(matched, key) | taken


def write_patterns(
    config: LoraConfig, ranks: Mapping[str, int], alphas: Mapping[str, float]
) -> None:
    """Write an entry for every target whose rank or alpha differs from the configuration's.

    Args:
        config: The configuration, changed in place; its `r` and `lora_alpha` apply to all other
            targets.
        ranks: Rank by target.
        alphas: Numerator of the scaling by target.
    """
    config.rank_pattern = {entry_for(t): r for t, r in ranks.items() if r != config.r}
    config.alpha_pattern = {entry_for(t): a for t, a in alphas.items() if a != config.lora_alpha}


def resolve_patterns(config: LoraConfig, adapter: str, layers: Mapping[str, LoraLayer]) -> None:
    """Replace the user's patterns with one entry for each layer that differs.

    Args:
        config: The adapter's configuration; changed in place.
        adapter: Name of the adapter.
        layers: Its layers by name, as PEFT created them from the user's patterns.
    """
    targets = {target_name(name, layer): layer for name, layer in layers.items()}
    write_patterns(
        config,
        {target: int(layer.r[adapter]) for target, layer in targets.items()},
        {target: layer.lora_alpha[adapter] for target, layer in targets.items()},
    )


def write_ranks(
    model: PeftModel, adapter: str, layers: Mapping[str, LoraLayer], ranks: Mapping[str, int]
) -> None:
    """Update PEFT's bookkeeping, so that `save_pretrained` writes a plain LoRA.

    `r` is the largest rank, and `lora_alpha` = s r, so that a reader that ignores patterns still
    finds s; each layer that differs gets an entry.

    Args:
        model: The adapted model.
        adapter: Name of the adapter.
        layers: Its layers by module name; the scaling s of each is unchanged.
        ranks: Rank by module name, at least 1.
    """
    config = model.peft_config[adapter]
    for name, layer in layers.items():
        rank = ranks[name]
        layer.r[adapter] = rank
        size = math.sqrt(rank) if config.use_rslora else rank
        layer.lora_alpha[adapter] = float(layer.scaling[adapter]) * size
    largest = max(layers.values(), key=lambda layer: int(layer.r[adapter]))
    config.r, config.lora_alpha = largest.r[adapter], largest.lora_alpha[adapter]
    resolve_patterns(config, adapter, layers)


def drop_layers(model: PeftModel, adapter: str, names: Iterable[str]) -> None:
    """Replace adapted modules with their base layers, and exclude them from the adapter's targets.

    Args:
        model: The adapted model, with only this adapter.
        adapter: Name of the adapter.
        names: Adapted modules that no longer need an adapter.
    """
    config = model.peft_config[adapter]
    given = config.exclude_modules or []
    # a regular expression has to match the whole name, an entry of a list only the end of it
    excluded = [given] if isinstance(given, str) else [rf"(.*\.)?{re.escape(end)}" for end in given]
    for name in names:
        model.set_submodule(name, model.get_submodule(name).get_base_layer())
        excluded.append(re.escape(name.removeprefix(PREFIX)))
    config.exclude_modules = "|".join(excluded) or None


def name_targets(model: PeftModel, adapter: str) -> None:
    """List the full names of the adapted layers as the adapter's target modules.

    PEFT also adapts modules whose names end in an entry of the list. These stay excluded; no other
    module needs to be.

    Args:
        model: The adapted model, with only this adapter.
        adapter: Name of the adapter.
    """
    config = model.peft_config[adapter]
    modules = [name for name, _ in model.get_base_model().named_modules()]
    layers = {n.removeprefix(PREFIX) for n, m in model.named_modules() if isinstance(m, LoraLayer)}
    inside = tuple(f"{name}." for name in layers)
    ends = tuple(f".{name}" for name in layers)
    others = [
        name
        for name in modules
        if name.endswith(ends) and name not in layers and not name.startswith(inside)
    ]
    config.target_modules = layers
    config.exclude_modules = "|".join(map(re.escape, others)) or None
