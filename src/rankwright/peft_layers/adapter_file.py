"""Adapter files that both PEFT and transformers' own loader read correctly.

PEFT 0.21 writes DoRA's magnitudes as `...lora_magnitude_vector`. The loader in transformers 5.23
(`AutoModelFor....from_pretrained(adapter)`, `model.load_adapter`) expects
`...lora_magnitude_vector.weight`; it skips the other name and leaves the magnitudes at the norms of
the base weight. PEFT reads both names.
"""

from __future__ import annotations

from pathlib import Path

from peft import PeftModel
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import safe_open
from safetensors.torch import save_file

from rankwright.peft_layers.injection import ADAPTER

MAGNITUDE = ".lora_magnitude_vector"


def save_adapter(model: PeftModel, folder: Path, adapter: str = ADAPTER) -> None:
    """Write an adapter as PEFT does, with tensor names that transformers' own loader reads.

    Args:
        model: The adapted model.
        folder: The folder to write; created if missing.
        adapter: Name of the adapter. PEFT puts any but "default" into a subfolder of that name,
            where `PeftModel.from_pretrained(base, folder)` would not find it; its files are moved
            into `folder`.
    """
    model.save_pretrained(str(folder), selected_adapters=[adapter])
    if adapter != ADAPTER:
        for file in (folder / adapter).iterdir():
            file.replace(folder / file.name)
        (folder / adapter).rmdir()
    rename_magnitudes(folder)


def rename_magnitudes(folder: Path) -> None:
    """Add `.weight` to the names of DoRA's magnitudes in the adapter file of a folder.

    Args:
        folder: Written by `save_pretrained`. A file without magnitudes under PEFT's name is left
            unchanged.
    """
    file = folder / SAFETENSORS_WEIGHTS_NAME
    with safe_open(file, "pt") as stored:
        metadata, names = stored.metadata(), list(stored.keys())
        if not any(name.endswith(MAGNITUDE) for name in names):
            return
        tensors = {_renamed(name): stored.get_tensor(name) for name in names}
    # not in place: the old file is mapped into memory
    temporary = file.with_name(f".{file.name}.renaming")
    save_file(tensors, temporary, metadata=metadata)
    temporary.replace(file)


def _renamed(name: str) -> str:
    return f"{name}.weight" if name.endswith(MAGNITUDE) else name
