#!/usr/bin/env bash
# PEFT 0.21.2: disable_adapter() with init_lora_weights="pissa" or "olora".
#
# Guess: with the adapter disabled the model is the base model, so it can be the reference for DPO or a KL term.
# Seen:  it is the residual: the initialisation subtracts the factors' product from the frozen weight, and disabling does not
#        put it back. unload() gives that residual, too.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0
"$work/venv/bin/pip" install -q transformers==5.23.0 peft==0.21.2
cd "$work"
HF_HUB_OFFLINE=1 venv/bin/python -W ignore - <<'PY'
import peft
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
shape = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)
ids = torch.randint(0, 64, (1, 9))
off = {}
for initialisation in (True, "pissa", "olora"):
    base = LlamaForCausalLM(LlamaConfig(**shape)).eval()
    with torch.no_grad():
        expected = base(ids).logits
        model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=initialisation)).eval()
        enabled = model(ids).logits
        with model.disable_adapter():
            disabled = model(ids).logits
        unloaded = model.unload()(ids).logits
    off[initialisation] = [(logits - expected).abs().max().item() for logits in (enabled, disabled, unloaded)]
print(f"peft {peft.__version__}: largest difference of logits to the base model's, fresh adapter enabled, disabled, unloaded")
for initialisation, values in off.items():
    print(initialisation, [f"{value:.2g}" for value in values])
assert max(off[True]) == 0
assert all(off[name][0] < 1e-5 and min(off[name][1:]) > 1e-2 for name in ("pissa", "olora"))
PY
