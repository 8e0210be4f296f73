#!/usr/bin/env bash
# PEFT 0.21.2: the logits of a causal model with PromptTuningConfig.
#
# Guess: one row of logits for each token of input_ids, as with every other adapter and as labels have.
# Seen:  num_virtual_tokens more, in front. A metric that shifts logits against labels, and argmax over the Trainer's
#        predictions, compare the wrong positions; outputs.loss is right. Prefix tuning gives the length of the input.
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
from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
shape = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)
ids = torch.randint(0, 64, (1, 9))
lengths = {}
for config in (PrefixTuningConfig, PromptTuningConfig):
    model = get_peft_model(LlamaForCausalLM(LlamaConfig(**shape)), config(task_type="CAUSAL_LM", num_virtual_tokens=4)).eval()
    output = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids)
    lengths[config.__name__] = output.logits.shape[1]
own = cross_entropy(output.logits[0, 3:-1], ids[0])
print(f"peft {peft.__version__}: positions of logits for 9 tokens: {lengths}")
print(f"prompt tuning's loss {output.loss:.4f}, from logits 3 to 11 {own:.4f} (the first token is predicted, too)")
assert lengths == {"PrefixTuningConfig": 9, "PromptTuningConfig": 13} and abs(own - output.loss) < 1e-5
PY
