"""The README of an adapter's folder: how to load the adapter, in calls that run as they stand.

The loader inside transformers reads nothing about the head from such a folder: it takes the number
of labels and their names as arguments, or in a config. A `config.json` beside the adapter would not
help: transformers then looks for the weights of a whole model there. So the config of the base
model, with the labels in it, lies in a subfolder that the calls name.
"""

from __future__ import annotations

from pathlib import Path

from peft import PeftModel

from rankwright.job.head import Head

README = "README.md"
CONFIG_FOLDER = "base_config"
ADAPTER = 'adapter = "."  # this folder, or its name on the hub'
NAMES_SHOWN = 20
"""Up to so many labels are arguments in the calls; more are taken from `CONFIG_FOLDER`."""


def write_card(folder: Path, model: PeftModel, head: Head) -> None:
    """Write `README.md`, and the base model's config where the head needs arguments.

    Args:
        folder: The adapter's folder; PEFT's blank README is replaced.
        model: The adapted model.
        head: What its base model was loaded with.
    """
    base = model.get_base_model()
    if head.model_kwargs:
        base.config.save_pretrained(folder / CONFIG_FOLDER)
    lines = ["# Adapter", "", *loading_section(head, base.name_or_path)]
    (folder / README).write_text("\n".join(lines) + "\n", encoding="utf-8")


def loading_section(head: Head, base: str) -> list[str]:
    """The lines of a Markdown section that loads an adapter with PEFT and with transformers.

    Args:
        head: What the base model was loaded with.
        base: Folder or hub name of the base model.
    """
    names = [head.auto_class]
    if len(head.model_kwargs.get("id2label", ())) > NAMES_SHOWN:
        arguments = [f'config=AutoConfig.from_pretrained(adapter, subfolder="{CONFIG_FOLDER}")']
        names.insert(0, "AutoConfig")
    else:
        arguments = [f"{name}={value!r}" for name, value in head.model_kwargs.items()]
    if head.replaces:
        arguments.append("ignore_mismatched_sizes=True")
    imports = f"from transformers import {', '.join(names)}"
    return [
        "## Loading",
        "",
        "With PEFT:",
        "",
        "```python",
        "from peft import PeftModel",
        imports,
        "",
        ADAPTER,
        *_call("base", head.auto_class, repr(base), arguments),
        "model = PeftModel.from_pretrained(base, adapter)",
        "```",
        "",
        "With transformers, which takes the base model's name from `adapter_config.json` and needs "
        "`peft` too:",
        "",
        "```python",
        imports,
        "",
        ADAPTER,
        *_call("model", head.auto_class, "adapter", arguments),
        "```",
        "",
        "The tokenizer is in the folder: `AutoTokenizer.from_pretrained(adapter)`.",
    ]


def _call(name: str, auto_class: str, first: str, arguments: list[str]) -> list[str]:
    """The lines of a call of `from_pretrained`, one for each argument where there are several."""
    if not arguments:
        return [f"{name} = {auto_class}.from_pretrained({first})"]
    inside = [f"    {argument}," for argument in (first, *arguments)]
    return [f"{name} = {auto_class}.from_pretrained(", *inside, ")"]
