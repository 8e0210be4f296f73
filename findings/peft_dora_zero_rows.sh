#!/usr/bin/env bash
# PEFT 0.21.2: DoRA over a weight that has a row of zeros (a pruned output, a padded class of a head).
#
# Guess: B is zero at the start, so a fresh adapter gives the base model's outputs, zeros in that row.
# Seen:  NaN in that output: the magnitude 0 is divided by the row's norm 0. Every other output is the base model's.
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
base = nn.Sequential(nn.Linear(8, 4))
with torch.no_grad():
    base[0].weight[1] = 0
    x = torch.randn(2, 8)
    before = base(x)
    after = get_peft_model(base, LoraConfig(r=2, target_modules=["0"], use_dora=True))(x)
print(f"peft {peft.__version__}: {before[0].tolist()} before, {after[0].tolist()} with a fresh adapter")
assert after[:, 1].isnan().all() and torch.allclose(after[:, [0, 2, 3]], before[:, [0, 2, 3]], atol=1e-6)
PY
