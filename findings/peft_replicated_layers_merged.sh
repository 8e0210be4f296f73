#!/usr/bin/env bash
# PEFT 0.21.2: merge_and_unload after layer_replication.
#
# Guess: the merged model gives the outputs of the adapted one; or PEFT refuses, since copies of a layer share their weights.
# Seen:  it merges without a word and the outputs differ: the updates of all copies are added to the one weight that they share,
#        so each copy has the updates of the others as well.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0
"$work/venv/bin/pip" install -q transformers==5.23.0 peft==0.21.2
cd "$work"
HF_HUB_OFFLINE=1 venv/bin/python -W ignore - <<'PY'
import warnings

import peft
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

shape = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
ids = torch.arange(9)[None]


def difference(**options):
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, **options)
    model = get_peft_model(LlamaForCausalLM(LlamaConfig(**shape)), config).eval()
    with torch.no_grad():
        adapted = model(ids).logits
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            merged = model.merge_and_unload()
        return (merged(ids).logits - adapted).abs().max().item(), [str(w.message) for w in caught]


plain, replicated = difference(), difference(layer_replication=[(0, 2), (1, 2)])
print(f"peft {peft.__version__}: logits change by {plain[0]:.2g} with 2 layers, by {replicated[0]:.2g} with layer 1 replicated")
print("warnings:", replicated[1])
assert plain[0] < 1e-5 and replicated[0] > 1e-3 and not replicated[1]
PY
