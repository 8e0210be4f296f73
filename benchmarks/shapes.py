"""The models that are measured: random weights, one batch each, float32.

The encoders' own dropout is off, as the Llama has none: it would be part of the floor, and the
ratios to it would look smaller.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
)


@dataclass(frozen=True)
class Shape:
    """A model and the size of its batch.

    Attributes:
        title: What a reader sees.
        build: Makes the model, on the CPU.
        rows: Rows of a batch.
        length: Tokens of a row.
    """

    title: str
    build: Callable[[], PreTrainedModel]
    rows: int
    length: int

    def batch(self, model: PreTrainedModel, seed: int = 0) -> dict[str, Tensor]:
        """Random tokens and labels on the model's device.

        Args:
            model: What `build` made.
            seed: Of the draw.
        """
        draw = torch.Generator().manual_seed(seed)
        shape = (self.rows, self.length)
        ids = torch.randint(5, model.config.vocab_size, shape, generator=draw)
        causal = isinstance(model, LlamaForCausalLM)
        labels = ids if causal else torch.randint(0, 2, (self.rows,), generator=draw)
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
        return {name: tensor.to(model.device) for name, tensor in batch.items()}


def little_of(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Eight tokens of the first row, which run through the same code in no time.

    Args:
        batch: What `Shape.batch` gave.
    """
    return {name: part[:1] if part.dim() == 1 else part[:1, :8] for name, part in batch.items()}


NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def _minilm() -> PreTrainedModel:
    """The shape of all-MiniLM-L6-v2: 22.7 M parameters."""
    return BertForSequenceClassification(
        BertConfig(
            hidden_size=384,
            num_hidden_layers=6,
            num_attention_heads=12,
            intermediate_size=1536,
            **NO_DROPOUT,
        )
    )


def llama(parts: int = 1) -> LlamaForCausalLM:
    """A small Llama, 33.7 M parameters; or as many parts narrower, its vocabulary as well."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=8192 // parts,
            hidden_size=512 // parts,
            intermediate_size=1376 // parts,
            num_hidden_layers=8,
            num_attention_heads=8 // parts,
            use_cache=False,
        )
    )


def _roberta() -> PreTrainedModel:
    """The shape of roberta-base: 124.6 M parameters."""
    return RobertaForSequenceClassification(
        RobertaConfig(
            vocab_size=50265,
            max_position_embeddings=514,
            type_vocab_size=1,
            pad_token_id=1,
            **NO_DROPOUT,
        )
    )


SHAPES = {
    "minilm": Shape("MiniLM, 4 x 128 tokens", _minilm, 4, 128),
    "llama": Shape("Llama-like, hidden 512, 8 layers, 2 x 256 tokens", llama, 2, 256),
    "roberta": Shape("roberta-base-sized, 2 x 128 tokens", _roberta, 2, 128),
}
