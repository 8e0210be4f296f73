"""What is compared on one model: the floor, full fine-tuning, PEFT's layers and ours."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

from peft import LoraConfig, get_peft_model
from torch import nn

from rankwright.methods import DoRA, LoRA

Build = Callable[[nn.Module], nn.Module]
"""Base model -> the model to be measured, in training mode; the base is left as it was."""


@dataclass(frozen=True)
class Variant:
    """One line of a table.

    Attributes:
        name: Of the line.
        of: What is measured: "LoRA r=8", say; lines of the same thing are compared.
        by: Whose code: "floor", "full", "peft" or "rankwright".
        build: See `Build`.
    """

    name: str
    of: str
    by: str
    build: Build


def shared(base: nn.Module) -> nn.Module:
    """A copy that has its own modules and the same frozen parameters."""
    return copy.deepcopy(base, {id(parameter): parameter for parameter in base.parameters()})


def floor(base: nn.Module) -> nn.Module:
    """The frozen model, where only activations get a gradient: no adapter can cost less."""
    model = shared(base)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    embeddings = model.get_input_embeddings()
    embeddings.register_forward_hook(lambda _module, _inputs, output: output.requires_grad_())
    return model.train()


def full(base: nn.Module) -> nn.Module:
    """Every parameter trained."""
    return copy.deepcopy(base).requires_grad_(True).train()


def layers(r: int, dropout: float) -> list[Variant]:
    """LoRA and DoRA on every linear layer but the head, PEFT's and ours, by turns.

    Args:
        r: Rank.
        dropout: Of the low-rank path.
    """
    suffix = f"r={r}" + (f", dropout {dropout:g}" if dropout else "")
    found = []
    for title, method in (("LoRA", LoRA), ("DoRA", DoRA)):
        of = f"{title} {suffix}"
        ours = method(r=r, lora_alpha=2.0 * r, lora_dropout=dropout)
        found += [
            Variant(f"{of}, PEFT", of, "peft", _peft(r, dropout, title == "DoRA")),
            Variant(of, of, "rankwright", lambda base, m=ours: m.apply(shared(base)).train()),
        ]
    return found


def all_variants() -> list[Variant]:
    """The table of layers."""
    return [
        Variant("floor", "floor", "floor", floor),
        *layers(8, 0.0),
        *layers(8, 0.05),
        *layers(64, 0.0),
        Variant("full fine-tuning", "full fine-tuning", "full", full),
    ]


def _peft(r: int, dropout: float, dora: bool) -> Build:
    config = {"r": r, "lora_alpha": 2 * r, "lora_dropout": dropout, "use_dora": dora}

    def build(base: nn.Module) -> nn.Module:
        return get_peft_model(
            shared(base), LoraConfig(task_type=_task(base), target_modules="all-linear", **config)
        ).train()

    return build


def _task(base: nn.Module) -> str:
    return "CAUSAL_LM" if "CausalLM" in type(base).__name__ else "SEQ_CLS"
