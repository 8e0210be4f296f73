"""rankwright: low-rank fine-tuning methods as small files over one engine.

`rankwright.LoRA`, `rankwright.Trainer` and the other names of `__all__` are imported where they are
first used: torch, peft and transformers take seconds, and `import rankwright` none.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rankwright.methods import (
        COLA,
        AdaLoRA,
        AutoLoRA,
        BALoRA,
        BeamLoRA,
        BiDoRA,
        BiLoRA,
        DiffoRA,
        DoRA,
        DoRADynamic,
        FlatLoRA,
        Full,
        HeadOnly,
        LoRA,
        LoRAFA,
        LoRAPlus,
        LoRAPro,
        LoRARITE,
        OLoRA,
        PiSSA,
        RACLoRA,
        SoRA,
        XGBLoRA,
    )
    from rankwright.training import Trainer, with_method

__all__ = [
    "COLA",
    "AdaLoRA",
    "AutoLoRA",
    "BALoRA",
    "BeamLoRA",
    "BiDoRA",
    "BiLoRA",
    "DiffoRA",
    "DoRA",
    "DoRADynamic",
    "FlatLoRA",
    "Full",
    "HeadOnly",
    "LoRA",
    "LoRAFA",
    "LoRAPlus",
    "LoRAPro",
    "LoRARITE",
    "OLoRA",
    "PiSSA",
    "RACLoRA",
    "SoRA",
    "Trainer",
    "XGBLoRA",
    "with_method",
]

_OF_TRAINING = ("Trainer", "with_method")

if not TYPE_CHECKING:  # or a type checker would take any name for one of ours

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        home = "training" if name in _OF_TRAINING else "methods"
        return getattr(importlib.import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
