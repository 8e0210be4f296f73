#!/usr/bin/env bash
# PEFT 0.21.2: add_weighted_adapter(combination_type="linear").
#
# Guess: the update of the new adapter is linear in those of its parts: w1 * B1 A1 + w2 * B2 A2.
# Seen:  A and B are summed one by one, each with the square root of the weight, so B2 A1 and B1 A2 are in the product too: off
#        by more than half of the right update here. "cat" is the exact sum. Averaging an adapter with its own copy hides it.
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
from torch import nn

torch.manual_seed(0)
config = LoraConfig(r=4, target_modules=["0"], init_lora_weights=False)
model = get_peft_model(nn.Sequential(nn.Linear(16, 16)), config)
model.add_adapter("other", config)
layer = model.base_model.model[0]
expected = 0.5 * layer.get_delta_weight("default") + 0.5 * layer.get_delta_weight("other")
off = {}
for kind in ("linear", "cat"):
    model.add_weighted_adapter(["default", "other"], [0.5, 0.5], kind, combination_type=kind)
    off[kind] = ((layer.get_delta_weight(kind) - expected).norm() / expected.norm()).item()
print(f"peft {peft.__version__}: relative distance to the weighted sum of the updates: {off}")
assert off["linear"] > 0.5 and off["cat"] < 1e-6
PY
