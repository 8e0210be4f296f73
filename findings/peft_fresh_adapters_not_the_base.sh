#!/usr/bin/env bash
# PEFT 0.21.2: adapters that are not the base model before the first step.
#
# Guess: a fresh adapter leaves the outputs as they are, as LoRA's, VeRA's, LoHa's and LoKr's do.
# Seen:  FourierFT and UniLoRA change them at once with their defaults: their coefficients are drawn at random, and the frozen
#        directions are not zero.
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
from peft import FourierFTConfig, LoHaConfig, LoKrConfig, LoraConfig, UniLoraConfig, VeraConfig, get_peft_model
from torch import nn

change = {}
for config in (LoraConfig, VeraConfig, LoHaConfig, LoKrConfig, FourierFTConfig, UniLoraConfig):
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)).eval()
    x = torch.randn(4, 64)
    with torch.no_grad():
        before = base(x)
        after = get_peft_model(base, config(target_modules=["0", "2"])).eval()(x)
    change[config.__name__] = ((after - before).norm() / before.norm()).item()
print(f"peft {peft.__version__}: relative change of the outputs by a fresh adapter: {change}")
assert all(change[name] == 0 for name in ("LoraConfig", "VeraConfig", "LoHaConfig", "LoKrConfig"))
assert change["FourierFTConfig"] > 0.1 and change["UniLoraConfig"] > 1e-4
PY
