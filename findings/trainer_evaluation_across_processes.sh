#!/usr/bin/env bash
# transformers 5.23.0: Trainer.evaluate of a classifier in two processes (torchrun, gloo).
#
# Guess: the loss of the same rows does not depend on how many processes share them.
# Seen:  eval_loss is twice as large for BertForSequenceClassification. The Trainer takes the model for one that divides by the
#        number of labels of all processes and multiplies by their count; a classifier takes the mean of its own rows.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0
"$work/venv/bin/pip" install -q transformers==5.23.0 accelerate==1.15.0 datasets==5.2.0
cd "$work"
cat > evaluate.py <<'PY'
import json

import torch
import transformers
from datasets import Dataset
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

torch.manual_seed(0)
shape = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)
rows = Dataset.from_dict({"input_ids": torch.randint(0, 64, (16, 4)).tolist(), "labels": [0, 1] * 8})
arguments = TrainingArguments("out", per_device_eval_batch_size=4, report_to=[], use_cpu=True, disable_tqdm=True)
trainer = Trainer(BertForSequenceClassification(BertConfig(**shape)), arguments, eval_dataset=rows)
loss = trainer.evaluate()["eval_loss"]
if arguments.process_index == 0:
    with open(f"loss_{arguments.world_size}.json", "w") as file:
        json.dump({"loss": loss, "version": transformers.__version__}, file)
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
PY
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
venv/bin/python -W ignore evaluate.py
venv/bin/torchrun --nproc-per-node 2 --rdzv-backend c10d --rdzv-endpoint localhost:0 evaluate.py
venv/bin/python - <<'PY'
import json

one, two = (json.load(open(f"loss_{count}.json")) for count in (1, 2))
print(f"transformers {one['version']}: eval_loss {one['loss']:.4f} in one process, {two['loss']:.4f} in two")
assert abs(two["loss"] / one["loss"] - 2) < 1e-3
PY
