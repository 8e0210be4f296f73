#!/usr/bin/env bash
# PEFT 0.21.2: target_modules="all-linear" over four mixtures of experts of transformers 5.23.0.
#
# Guess: the same words choose the same parts: either experts and routers are adapted in all of these models, or in none.
# Seen:  experts and router of Mixtral and DeepSeek-V3 get factors, those of Qwen2-MoE and GPT-OSS get none. The shared experts
#        of Qwen2-MoE get factors; those of DeepSeek-V3, nn.Linear like the others, get none. Nothing is said of what was left
#        out.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0
"$work/venv/bin/pip" install -q transformers==5.23.0 peft==0.21.2
cd "$work"
HF_HUB_OFFLINE=1 venv/bin/python -W ignore - <<'PY'
import peft
from peft import LoraConfig, get_peft_model
from transformers import DeepseekV3Config, GptOssConfig, MixtralConfig, Qwen2MoeConfig
from transformers import DeepseekV3ForCausalLM, GptOssForCausalLM, MixtralForCausalLM, Qwen2MoeForCausalLM

shape = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, num_experts_per_tok=2,
             pad_token_id=0, eos_token_id=1)
latent = dict(kv_lora_rank=8, q_lora_rank=8, qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=8)
models = [
    MixtralForCausalLM(MixtralConfig(**shape, num_key_value_heads=2, num_local_experts=4)),
    DeepseekV3ForCausalLM(DeepseekV3Config(**shape, **latent, n_routed_experts=4, moe_intermediate_size=16, n_group=1, topk_group=1,
                                           first_k_dense_replace=0)),
    Qwen2MoeForCausalLM(Qwen2MoeConfig(**shape, num_key_value_heads=2, num_experts=4, moe_intermediate_size=16,
                                       shared_expert_intermediate_size=16)),
    GptOssForCausalLM(GptOssConfig(**shape, num_key_value_heads=2, num_local_experts=4, head_dim=8)),
]
adapted = {}
for base in models:
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear"))
    names = [name.split(".mlp.")[1] for name, _ in model.named_parameters() if ".mlp." in name and "lora_A" in name]
    adapted[type(base).__name__] = {name.split(".")[0] for name in names}
print(f"peft {peft.__version__}: parts of the feed-forward block with factors: {adapted}")
assert adapted["MixtralForCausalLM"] == {"experts", "gate"}
assert adapted["DeepseekV3ForCausalLM"] == {"experts", "gate"}
assert adapted["Qwen2MoeForCausalLM"] == {"shared_expert", "shared_expert_gate"}
assert adapted["GptOssForCausalLM"] == set()
PY
