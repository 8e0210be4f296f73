#!/usr/bin/env bash
# transformers 5.23.0: weight_decay of the Trainer and DoRA of PEFT 0.21.2.
#
# Guess: vectors are not decayed, as with norms and biases: DoRA's magnitudes keep their size unless the loss changes them.
# Seen:  the magnitudes are in the group with weight decay. A magnitude is the norm of a row of the whole weight, so decay pulls
#        the pretrained weight to zero, not the update: gradients of zero shrink the adapted layer's output.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0
"$work/venv/bin/pip" install -q transformers==5.23.0 peft==0.21.2 accelerate==1.15.0
cd "$work"
HF_HUB_OFFLINE=1 venv/bin/python -W ignore - <<'PY'
import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

torch.manual_seed(0)
shape = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)
config = LoraConfig(target_modules=["q_proj"], use_dora=True, modules_to_save=["model.norm"])
model = get_peft_model(LlamaForCausalLM(LlamaConfig(**shape)), config)
arguments = TrainingArguments("out", weight_decay=0.1, learning_rate=0.1, report_to=[], use_cpu=True)
optimizer = Trainer(model, arguments).create_optimizer()
names = {parameter: name.removeprefix("base_model.model.model.") for name, parameter in model.named_parameters()}
decay = {names[parameter]: group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
layer = model.base_model.model.model.layers[0].self_attn.q_proj
x = torch.randn(4, 32)
with torch.no_grad():
    before = layer(x)
    for parameter in names:
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    for _ in range(10):
        optimizer.step()
    shrunk = (layer(x).norm() / before.norm()).item()
print(f"transformers {transformers.__version__}, peft {peft.__version__}: weight decay by parameter: {decay}")
print(f"output of the adapted layer after ten steps with gradients of zero: {shrunk:.3f} of its norm")
assert decay["layers.0.self_attn.q_proj.lora_magnitude_vector.default.weight"] == 0.1
assert decay["norm.modules_to_save.default.weight"] == 0.0 and shrunk < 0.95
PY
