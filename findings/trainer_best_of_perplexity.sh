#!/usr/bin/env bash
# transformers 5.23.0: load_best_model_at_end with metric_for_best_model="perplexity".
#
# Guess: the best checkpoint has the lowest perplexity; or the Trainer asks for the direction of a metric that it does not know.
# Seen:  the highest counts as best: a name that does not end in "loss" is taken for greater-is-better, "wer" and "perplexity"
#        too, without a warning.
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
shape = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)
ids = torch.randint(0, 64, (8, 4)).tolist()
rows = Dataset.from_dict({"input_ids": ids, "labels": ids})
perplexities = [9.0, 5.0, 2.0]
measured = iter(perplexities)
arguments = TrainingArguments("out", max_steps=3, eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1,
                              use_cpu=True, load_best_model_at_end=True, metric_for_best_model="perplexity", report_to=[],
                              disable_tqdm=True)
trainer = Trainer(LlamaForCausalLM(LlamaConfig(**shape)), arguments, train_dataset=rows, eval_dataset=rows,
                  compute_metrics=lambda prediction: {"perplexity": next(measured)})
trainer.train()
best = trainer.state.best_metric
print(f"transformers {transformers.__version__}: best of {perplexities} is {best}, {trainer.state.best_model_checkpoint}")
assert best == 9.0 and trainer.state.best_model_checkpoint.endswith("checkpoint-1")
PY
