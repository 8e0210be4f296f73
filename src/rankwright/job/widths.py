"""Refuse a rank that is too large for every layer, from the model's config alone.

A layer's rank is at most the smaller of its two sizes, which is in the config or derived from a
larger number there. `Method.apply` checks the layers themselves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rankwright.errors import MethodError
from rankwright.job.model_names import resolve_model

_NO_WIDTH = re.compile(r"vocab|position|token|length|max_|window|n_ctx|theta|version|seed|label")
"""Keys of numbers that are not layer sizes; a missing key makes the check more lenient."""


def check_rank(model: str, rank: int) -> None:
    """Refuse a rank that is larger than every size in the config of a model.

    Args:
        model: Folder or name of the model; a model that is not in a local folder is not checked.
        rank: The rank.

    Raises:
        MethodError: The rank is larger, or the folder does not exist.
    """
    config = Path(resolve_model(model)) / "config.json"
    try:
        widths = list(_numbers(json.loads(config.read_text("utf-8"))))
    except (OSError, ValueError):
        return  # loading the model reports what is wrong with it
    if widths and rank > max(widths):
        raise MethodError(
            f"rank r = {rank} is larger than every layer of {model}: no size in its config is "
            f"above {max(widths)}; choose a smaller r, such as 8 or 16"
        )


def _numbers(value: Any) -> Iterator[int]:
    """Yield the integers of a config, except those under keys that are not sizes."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not _NO_WIDTH.search(key):
                yield from _numbers(item)
    elif isinstance(value, list):
        for item in value:
            yield from _numbers(item)
    elif type(value) is int:
        yield value
