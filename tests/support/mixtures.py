"""Tiny models with experts, held as parameters."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from models import VOCABULARY

SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": None,
    "eos_token_id": None,
}


def tiny_mixtral() -> Any:
    torch.manual_seed(0)
    return MixtralForCausalLM(MixtralConfig(num_local_experts=4, **SHAPE))


def tiny_qwen3_moe() -> Any:
    torch.manual_seed(0)
    options = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(head_dim=8, **options, **SHAPE))


def tiny_olmoe() -> Any:
    torch.manual_seed(0)
    return OlmoeForCausalLM(OlmoeConfig(num_experts=4, num_experts_per_tok=2, **SHAPE))


def tiny_deepseek() -> Any:
    """With shared experts, which are linear layers, and attention by other names."""
    torch.manual_seed(0)
    ranks = {"q_lora_rank": 16, "kv_lora_rank": 16}
    heads = {"qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
    sizes = {"moe_intermediate_size": 24, "first_k_dense_replace": 0, "n_shared_experts": 1}
    shape = {**SHAPE, "num_key_value_heads": 4}
    return DeepseekV3ForCausalLM(DeepseekV3Config(**ranks, **heads, **experts, **sizes, **shape))


def tiny_gpt_oss() -> Any:
    """Its experts are stored (experts, in, out), and PEFT leaves them out of "all-linear"."""
    torch.manual_seed(0)
    config = GptOssConfig(num_local_experts=4, num_experts_per_tok=2, head_dim=8, **SHAPE)
    return GptOssForCausalLM(config)


ADAPTED = [tiny_mixtral, tiny_qwen3_moe, tiny_olmoe, tiny_deepseek]
"""Those whose experts "all-linear" adapts."""
