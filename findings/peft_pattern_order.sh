#!/usr/bin/env bash
# PEFT 0.21.2: two keys of alpha_pattern that match one module, saved and loaded.
#
# Guess: adapter_config.json holds what was trained, so a loaded adapter has the scaling of the saved one.
# Seen:  the first match in the order of the mapping counts, and the file is written with its keys sorted. A specific key that
#        stands before a general one loses its place: scaling 8.0 before saving, 2.0 after loading, with no warning.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0
"$work/venv/bin/pip" install -q transformers==5.23.0 peft==0.21.2
cd "$work"
HF_HUB_OFFLINE=1 venv/bin/python -W ignore - <<'PY'
import json
from pathlib import Path

import peft
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM


def base():
    torch.manual_seed(0)
    shape = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    return LlamaForCausalLM(LlamaConfig(**shape)).eval()


def scaling(model):
    return model.get_submodule("base_model.model.model.layers.0.self_attn.q_proj").scaling["default"]


name = "model.layers.0.self_attn.q_proj"
config = LoraConfig(r=8, lora_alpha=8, target_modules=["q_proj"], alpha_pattern={name: 64, ".*q_proj": 16})
trained = get_peft_model(base(), config)
trained.save_pretrained("adapter")
written = json.loads(Path("adapter/adapter_config.json").read_text())["alpha_pattern"]
loaded = PeftModel.from_pretrained(base(), "adapter")
print(f"peft {peft.__version__}: keys in the file {list(written)}; scaling {scaling(trained)} saved, {scaling(loaded)} loaded")
assert list(written) == [".*q_proj", name]
assert (scaling(trained), scaling(loaded)) == (8.0, 2.0)
PY
