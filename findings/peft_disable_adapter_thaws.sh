#!/usr/bin/env bash
# PEFT 0.21.2: requires_grad after `with model.disable_adapter()`.
#
# Guess: the block turns the adapter off for its duration and leaves everything as it was: what the user froze stays frozen.
# Seen:  leaving the block sets requires_grad=True on every factor of the active adapter. A lora_A frozen by hand (LoRA-FA) is
#        trained from then on, as is an adapter that was loaded for inference. A reference pass (DPO, KL) is enough.
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
from transformers import LlamaConfig, LlamaForCausalLM

shape = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)


def trainable(model):
    return sorted(name.split(".")[-3] for name, parameter in model.named_parameters() if parameter.requires_grad)


def around_the_block(model):
    before = trainable(model)
    with model.disable_adapter():
        pass
    return before, trainable(model)


frozen = get_peft_model(LlamaForCausalLM(LlamaConfig(**shape)), LoraConfig(target_modules=["q_proj"]))
for name, parameter in frozen.named_parameters():
    if "lora_A" in name:
        parameter.requires_grad_(False)
inference = get_peft_model(LlamaForCausalLM(LlamaConfig(**shape)), LoraConfig(target_modules=["q_proj"], inference_mode=True))
of_frozen, of_inference = around_the_block(frozen), around_the_block(inference)
print(f"peft {peft.__version__}: trainable before and after: {of_frozen} with lora_A frozen, {of_inference} in inference mode")
assert of_frozen == (["lora_B"], ["lora_A", "lora_B"])
assert of_inference == ([], ["lora_A", "lora_B"])
PY
