#!/usr/bin/env bash
# PEFT 0.21.2: dtype of what is trained over a base in bfloat16.
#
# Guess: autocast_adapter_dtype=True keeps all that is trained in float32.
# Seen:  lora_A and lora_B are float32; the copy of a head in modules_to_save is bfloat16, and is trained so. At a learning rate
#        of 1e-5 AdamW does not move most of its weights at all: the step is below half a unit in their last place.
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
base = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32)).to(torch.bfloat16)
model = get_peft_model(base, LoraConfig(r=4, target_modules=["0"], modules_to_save=["1"]))
trained = {name.removeprefix("base_model.model."): value for name, value in model.named_parameters() if value.requires_grad}
dtypes = {name: parameter.dtype for name, parameter in trained.items()}
head = model.base_model.model[1].modules_to_save["default"].weight
before = head.detach().clone()
optimizer = torch.optim.AdamW(trained.values(), lr=1e-5, weight_decay=0.0)
x, y = torch.randn(2, 64, 32, dtype=torch.bfloat16)
for _ in range(100):
    optimizer.zero_grad()
    (model(x) - y).square().mean().backward()
    optimizer.step()
still = (head == before).float().mean().item()
print(f"peft {peft.__version__}: {dtypes}")
print(f"weights of the head that have not changed after 100 steps: {still:.0%}")
assert dtypes["0.lora_A.default.weight"] == torch.float32 and dtypes["1.modules_to_save.default.weight"] == torch.bfloat16
assert still > 0.5
PY
