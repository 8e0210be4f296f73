#!/usr/bin/env bash
# transformers 5.23.0: eval_loss of a causal model and per_device_eval_batch_size.
#
# Guess: the mean over the scored tokens, as the training loss since 2024; the batch size is a matter of speed.
# Seen:  the mean over batches' means, each weighted with its rows: rows with few scored tokens count as much as long ones that
#        are in another batch, and two batch sizes give two losses for the same rows and the same model.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0
"$work/venv/bin/pip" install -q transformers==5.23.0 accelerate==1.15.0 datasets==5.2.0
cd "$work"
HF_HUB_OFFLINE=1 venv/bin/python -W ignore - <<'PY'
import torch
import transformers
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

torch.manual_seed(0)
shape = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, initializer_range=0.5)
model = LlamaForCausalLM(LlamaConfig(**shape)).eval()
ids = torch.randint(0, 64, (2, 12))
labels = ids.clone()
labels[1, :11] = -100
rows = Dataset.from_dict({"input_ids": ids.tolist(), "labels": labels.tolist()})
losses = {}
for size in (1, 2):
    arguments = TrainingArguments("out", per_device_eval_batch_size=size, report_to=[], use_cpu=True, disable_tqdm=True)
    losses[size] = Trainer(model, arguments, eval_dataset=rows).evaluate()["eval_loss"]
with torch.no_grad():
    first, second = (model(ids[i : i + 1], labels=labels[i : i + 1]).loss.item() for i in range(2))
of_tokens, of_rows = (11 * first + second) / 12, (first + second) / 2
print(f"transformers {transformers.__version__}: eval_loss by size {losses}, mean of tokens {of_tokens:.4f}, of rows {of_rows:.4f}")
assert abs(losses[2] - of_tokens) < 1e-3 and abs(losses[1] - of_rows) < 1e-3 and abs(of_rows - of_tokens) > 0.05
PY
