"""Tiny random models and data that the tests share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import (
    BartConfig,
    BartForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
)

if TYPE_CHECKING:  # processes that have no rankwright use this module too
    from rankwright.core.method import Method

VOCABULARY = 64


def tiny_bert(
    seed: int = 0, *, dropout: float = 0.0, **options: Any
) -> BertForSequenceClassification:
    """A two-layer BERT classifier with 32 hidden units."""
    torch.manual_seed(seed)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=32,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            **options,
        )
    )


def tiny_bart(seed: int = 0) -> BartForSequenceClassification:
    """A classifier on an encoder and a decoder of one layer each; token 2 ends a row."""
    torch.manual_seed(seed)
    return BartForSequenceClassification(
        BartConfig(
            vocab_size=VOCABULARY,
            d_model=32,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
            max_position_embeddings=40,
            dropout=0.0,
            num_labels=2,
        )
    )


def tiny_llama(seed: int = 0, **options: Any) -> LlamaForCausalLM:
    """A three-layer Llama with 32 hidden units and grouped queries."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=32,
            **options,
        )
    )


def trained(build: Callable[..., Any], method: Method, dtype: torch.dtype = torch.float64) -> Any:
    """An adapted model with factors as after some training."""
    model = method.apply(build().to(dtype))
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.1)
    return model


def tokens(rows: int, length: int = 12, seed: int = 1) -> Tensor:
    """Random token ids (rows, length)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCABULARY, (rows, length), generator=generator)


def classification_rows(rows: int, seed: int = 1) -> list[dict[str, Any]]:
    """Rows whose label is whether the first token is in the lower half of the vocabulary."""
    return [
        {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "labels": int(ids[0] < VOCABULARY // 2),
        }
        for ids in tokens(rows, seed=seed)
    ]


def causal_rows(rows: int, seed: int = 1) -> list[dict[str, Any]]:
    """Rows for a causal language model."""
    return [{"input_ids": ids, "labels": ids.clone()} for ids in tokens(rows, seed=seed)]


def rows_for(model: nn.Module, rows: int, seed: int = 1) -> list[dict[str, Any]]:
    """Rows that fit a model of this module."""
    if isinstance(model, LlamaForCausalLM):
        return causal_rows(rows, seed)
    return classification_rows(rows, seed)


def batch(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Stack rows to one batch."""
    return {key: torch.stack([torch.as_tensor(row[key]) for row in rows]) for key in rows[0]}


def same_bits(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    """Whether two state dicts hold the same keys and the same bits."""
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)
