#!/usr/bin/env bash
# PEFT 0.21.2: the learning rates of create_loraplus_optimizer.
#
# Guess: B has the larger rate, loraplus_lr_ratio times lr; everything else that is trained has lr.
# Seen:  every one-dimensional parameter is in B's group: DoRA's magnitudes and norms in modules_to_save have 16 times the rate
#        that was asked for. A head in modules_to_save has lr for its weight, and 16 times lr for its bias.
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
from peft.optimizers import create_loraplus_optimizer
from torch import nn

model = nn.Sequential()
model.add_module("projection", nn.Linear(8, 8))
model.add_module("norm", nn.LayerNorm(8))
model.add_module("head", nn.Linear(8, 2))
config = LoraConfig(r=2, target_modules=["projection"], use_dora=True, modules_to_save=["norm", "head"])
model = get_peft_model(model, config)
optimizer = create_loraplus_optimizer(model, torch.optim.AdamW, lr=1e-4, loraplus_lr_ratio=16)
names = {parameter: name.removeprefix("base_model.model.") for name, parameter in model.named_parameters()}
rates = {names[parameter]: group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
print(f"peft {peft.__version__}: rates over lr")
for name, rate in rates.items():
    print(f"{rate / 1e-4:4.0f}  {name}")
fast = {name for name, rate in rates.items() if rate > 1e-3}
assert fast == {
    "projection.lora_B.default.weight", "projection.lora_magnitude_vector.default.weight", "norm.modules_to_save.default.weight",
    "norm.modules_to_save.default.bias", "head.modules_to_save.default.bias"}
PY
