#!/usr/bin/env bash
# PEFT 0.21.2: saving LoRA over Wav2Vec2ForCTC of transformers 5.23.0 with target_modules="all-linear".
#
# Guess: a model that can be trained can be saved; a model for speech has no token embeddings for PEFT to think of.
# Seen:  save_pretrained raises NotImplementedError, after training. "all-linear" has lm_head among its targets here (for causal
#        models it leaves the output layer out), a name that makes save_embedding_layers="auto" ask for input embeddings. With
#        save_embedding_layers=False it saves.
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
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

shape = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=(8, 8), conv_stride=(5, 2),
             conv_kernel=(10, 3), num_feat_extract_layers=2, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
             vocab_size=8)
model = get_peft_model(Wav2Vec2ForCTC(Wav2Vec2Config(**shape)), LoraConfig(r=2, target_modules="all-linear"))
targets = sorted(model.peft_config["default"].target_modules)
try:
    model.save_pretrained("adapter")
    raised = None
except NotImplementedError as error:
    raised = str(error)
model.save_pretrained("adapter", save_embedding_layers=False)
print(f"peft {peft.__version__}: targets {targets}")
print("save_pretrained:", raised)
assert "lm_head" in targets and raised is not None and "get_input_embeddings" in raised
PY
