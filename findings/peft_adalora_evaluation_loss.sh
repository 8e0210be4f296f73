#!/usr/bin/env bash
# PEFT 0.21.2: the loss that an AdaLoRA model gives in evaluation.
#
# Guess: a fresh adapter is the base model, so model.eval() under no_grad gives the base model's loss.
# Seen:  the logits are the base model's, the loss is not (5.91 for 4.20 here): AdaLoraModel.forward adds its orthogonality penalty
#        to outputs.loss in every mode. An eval_loss or perplexity taken from it is off by a term that is of the factors alone.
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
from peft import AdaLoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
shape = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
base = LlamaForCausalLM(LlamaConfig(**shape)).eval()
ids = torch.randint(0, 64, (2, 9))
with torch.no_grad():
    bare = base(ids, labels=ids)
    options = dict(init_r=12, target_r=4, total_step=100, tinit=10, tfinal=10, target_modules=["q_proj", "v_proj"])
    adapted = get_peft_model(base, AdaLoraConfig(**options, task_type="CAUSAL_LM")).eval()(ids, labels=ids)
own = cross_entropy(adapted.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
print(f"peft {peft.__version__}: loss {bare.loss:.3f} of the base, {adapted.loss:.3f} adapted, {own:.3f} from the adapted logits")
assert torch.equal(bare.logits, adapted.logits)
assert abs(own - bare.loss) < 1e-5 and adapted.loss - bare.loss > 1
PY
