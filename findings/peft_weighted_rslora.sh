#!/usr/bin/env bash
# PEFT 0.21.2: add_weighted_adapter of adapters with use_rslora=True.
#
# Guess: combination_type="cat" is exact: the new update is the weighted sum of the updates, with rsLoRA as without.
# Seen:  with rsLoRA it is sqrt(rank) times that sum (2.83 for two adapters of rank 4). The configuration of the new adapter
#        takes use_rslora over and has lora_alpha equal to the rank, which is a scaling of 1 only without rsLoRA.
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


def combine(rslora):
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["0"], init_lora_weights=False, use_rslora=rslora)
    model = get_peft_model(nn.Sequential(nn.Linear(16, 16)), config)
    model.add_adapter("other", config)
    model.add_weighted_adapter(["default", "other"], [0.5, 0.5], "both", combination_type="cat")
    layer = model.base_model.model[0]
    first, second, both = (layer.get_delta_weight(name).detach() for name in ("default", "other", "both"))
    expected = 0.5 * first + 0.5 * second
    return (both.norm() / expected.norm()).item(), torch.cosine_similarity(both.flatten(), expected.flatten(), dim=0).item()


plain, scaled = combine(False), combine(True)
print(f"peft {peft.__version__}: norm over the expected norm, and cosine: {plain} without rsLoRA, {scaled} with it")
assert abs(plain[0] - 1) < 1e-5 and abs(scaled[0] - 8**0.5) < 1e-4 and min(plain[1], scaled[1]) > 0.9999
PY
