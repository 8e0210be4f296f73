#!/usr/bin/env bash
# PEFT 0.21.2: LoRA over torch.nn.MultiheadAttention in bfloat16.
#
# Guess: the base weight is frozen; it has the same bits after training as before.
# Seen:  every forward adds the update to the base weight and takes it off again afterwards. What rounding leaves stays: after 200
#        forward passes without a single optimizer step the frozen in_proj_weight is off by more than 0.1 % of its norm.
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


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(64, 4, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


torch.manual_seed(0)
base = Attention().to(torch.bfloat16)
before = base.attention.in_proj_weight.detach().clone()
config = LoraConfig(r=8, lora_alpha=16, target_modules=["attention"], init_lora_weights=False)
model = get_peft_model(base, config)
x = torch.randn(2, 5, 64, dtype=torch.bfloat16)
for _ in range(200):
    model(x).sum().backward()
weight = model.base_model.model.attention.base_layer.in_proj_weight
drift = ((weight - before).float().norm() / before.float().norm()).item()
print(f"peft {peft.__version__}: requires_grad={weight.requires_grad}, drift {drift:.2%} of the norm")
assert not weight.requires_grad and drift > 1e-3
PY
