"""Checks that a model can do a kind of task, before any training time is spent."""

from __future__ import annotations

import torch

from rankwright.tasks.errors import TaskError
from rankwright.tasks.prepared.forward import inference

PROBE_LENGTH = 8
POSITIONS = frozenset({"position_embeddings", "wpe", "embed_positions"})
"""Names of learned position embeddings in transformers; rotary ones have no limit."""


def check_positions(model: torch.nn.Module, longest: int) -> None:
    """Check that a model with learned positions has one for every token of the longest row.

    Raises:
        TaskError: If it has fewer.
    """
    for name, module in model.named_modules():
        learned = name.rpartition(".")[2] in POSITIONS and isinstance(module, torch.nn.Embedding)
        if learned and module.num_embeddings < longest:
            raise TaskError(
                f"the longest row has {longest} tokens, and {name} of the model "
                f"{type(model).__name__} has {module.num_embeddings} positions. Set max_length, to "
                f"{module.num_embeddings} at most."
            )


def check_head(model: torch.nn.Module, expected: int, auto_class: str) -> None:
    """Check that a model's configuration announces `expected` outputs.

    Raises:
        TaskError: If it announces another number, or none.
    """
    found = getattr(model.config, "num_labels", None)
    if found != expected:
        raise TaskError(
            f"the model {type(model).__name__} has num_labels={found}; the task needs {expected}. "
            f"Load it with {auto_class}.from_pretrained(..., **prepared.model_kwargs)."
        )


def check_causal(model: torch.nn.Module, vocabulary: int) -> None:
    """Check with a probe that no prediction depends on a later token.

    Two rows that differ in their second half must give the same logits in the first. The
    configuration is not enough: `BertLMHeadModel` calls itself a language model.

    Args:
        model: Any model.
        vocabulary: The number of tokens of the tokenizer, at least 10.

    Raises:
        TaskError: If the model sees the future, or its logits are not over the vocabulary.
    """
    name, half = type(model).__name__, PROBE_LENGTH // 2
    ids = torch.arange(1, PROBE_LENGTH + 1).repeat(2, 1)
    ids[1, half:] += 1
    with inference(model) as device:
        mask = torch.ones_like(ids)
        logits = model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
    if logits.dim() != 3 or logits.shape[-1] < vocabulary:
        raise TaskError(
            f"the model {name} gives logits of shape {tuple(logits.shape)} for 2 rows of "
            f"{PROBE_LENGTH} tokens; expected (2, {PROBE_LENGTH}, {vocabulary} or more). "
            "Take a causal language model (in Python, load it with AutoModelForCausalLM)."
        )
    # Masked positions have weight zero exactly, so the halves agree to the last bits.
    first, second = logits[:, :half].float()
    if (first - second).abs().max() > 1e-5 * first.abs().max():
        raise TaskError(
            f"the model {name} sees later tokens when it predicts earlier ones, as encoders do, so "
            "it has no likelihood of a completion. Use a causal language model (Llama, GPT-2, "
            "Qwen, ...), or make the problem a sequence_classification."
        )
