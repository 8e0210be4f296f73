#!/usr/bin/env bash
# PEFT 0.21.2: AdaLoRA trained by transformers' Trainer 5.23.0.
#
# Guess: the Trainer knows PEFT, so ranks shrink from init_r to target_r between tinit and total_step - tfinal.
# Seen:  nobody calls update_and_allocate. After 60 of 60 steps every module has its 12 singular values, the configuration has no
#        rank_pattern, and nothing is said: what was trained is a rank 12 with a penalty.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0
"$work/venv/bin/pip" install -q transformers==5.23.0 peft==0.21.2 accelerate==1.15.0 datasets==5.2.0
cd "$work"
HF_HUB_OFFLINE=1 venv/bin/python -W ignore - <<'PY'
import peft
import torch
from datasets import Dataset
from peft import AdaLoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

torch.manual_seed(0)
shape = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
options = dict(init_r=12, target_r=4, total_step=60, tinit=10, tfinal=10, deltaT=1, target_modules=["q_proj", "v_proj"])
model = get_peft_model(LlamaForCausalLM(LlamaConfig(**shape)), AdaLoraConfig(**options, task_type="CAUSAL_LM"))
ids = torch.randint(0, 64, (40, 9)).tolist()
arguments = TrainingArguments("out", max_steps=60, per_device_train_batch_size=2, report_to=[], use_cpu=True, save_strategy="no",
                              logging_strategy="no", disable_tqdm=True)
Trainer(model, arguments, train_dataset=Dataset.from_dict({"input_ids": ids, "labels": ids})).train()
ranks = [int((value != 0).sum()) for name, value in model.named_parameters() if "lora_E" in name]
print(f"peft {peft.__version__}: ranks {ranks} after all steps (target_r=4), rank_pattern {model.peft_config['default'].rank_pattern}")
assert ranks == [12, 12, 12, 12] and model.peft_config["default"].rank_pattern is None
PY
