#!/usr/bin/env bash
# PEFT 0.21.2: modules_to_save=["norm"] over a Llama.
#
# Guess: a name stands for modules with that name, as in target_modules: model.norm, which is the only module called norm.
# Seen:  every module whose name ends with these letters: input_layernorm and post_attention_layernorm of each layer are copied
#        and trained as well. target_modules=["proj"] matches nothing in the same model, and raises.
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


def base():
    return LlamaForCausalLM(LlamaConfig(**shape))


model = get_peft_model(base(), LoraConfig(target_modules=["q_proj"], modules_to_save=["norm"]))
copied = sorted(name.split(".modules_to_save")[0].removeprefix("base_model.model.model.") for name, _ in model.named_parameters()
                if "modules_to_save" in name)
try:
    get_peft_model(base(), LoraConfig(target_modules=["proj"]))
    answer = "matches"
except ValueError as error:
    answer = str(error)
print(f"peft {peft.__version__}: modules_to_save=['norm'] copies {copied}")
print("target_modules=['proj']:", answer)
assert copied == ["layers.0.input_layernorm", "layers.0.post_attention_layernorm", "norm"]
assert "not found in the base model" in answer
PY
