#!/usr/bin/env bash
# PEFT 0.21.2: the model that unload() and merge_and_unload() give.
#
# Guess: the plain model again, to be trained further in full as before get_peft_model.
# Seen:  no parameter of it requires a gradient: get_peft_model froze the base in place, and taking the adapter off does not
#        undo that. A part that the user had frozen before cannot be told from the rest.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0
"$work/venv/bin/pip" install -q transformers==5.23.0 peft==0.21.2
cd "$work"
HF_HUB_OFFLINE=1 venv/bin/python -W ignore - <<'PY'
import peft
from peft import LoraConfig, get_peft_model
from torch import nn


def trainable(model):
    return sum(parameter.requires_grad for parameter in model.parameters())


counts = {}
for way in ("unload", "merge_and_unload"):
    base = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
    before = trainable(base)
    counts[way] = before, trainable(getattr(get_peft_model(base, LoraConfig(target_modules=["0"])), way)())
print(f"peft {peft.__version__}: parameters that require a gradient before and after: {counts}")
assert counts == {"unload": (4, 0), "merge_and_unload": (4, 0)}
PY
