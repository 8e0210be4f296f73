#!/usr/bin/env bash
# transformers 5.23.0: the result of Trainer.train(resume_from_checkpoint=...).
#
# Guess: TrainOutput is of the whole run: global_step counts all steps, so training_loss is the mean over them and train_runtime
#        their time.
# Seen:  global_step is 8; training_loss is the mean over the steps after the checkpoint alone, and 0.0 if none were left. Two
#        runs that differ in one interruption cannot be compared by train_loss, and a finished run that is started again reports
#        a perfect one.
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


def train(checkpoint=None):
    arguments = TrainingArguments("out", max_steps=8, per_device_train_batch_size=1, save_steps=1, logging_steps=1, report_to=[],
                                  use_cpu=True, disable_tqdm=True)
    trainer = Trainer(LlamaForCausalLM(LlamaConfig(**shape)), arguments, train_dataset=rows)
    output = trainer.train(resume_from_checkpoint=checkpoint)
    return output, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


whole, _ = train()
resumed, losses = train("out/checkpoint-6")
finished, _ = train("out/checkpoint-8")
of_all, of_two = sum(losses) / 8, sum(losses[6:]) / 2
print(f"transformers {transformers.__version__}: mean of the 8 logged losses {of_all:.4f}, of the last two {of_two:.4f}")
for name, output in (("uninterrupted", whole), ("resumed at 6", resumed), ("resumed at 8", finished)):
    print(f"{name}: global_step {output.global_step}, training_loss {output.training_loss:.4f}")
assert whole.global_step == resumed.global_step == finished.global_step == 8 and len(losses) == 8
assert abs(whole.training_loss - of_all) < 1e-3 < abs(resumed.training_loss - of_all)
assert abs(resumed.training_loss - of_two) < 1e-3 and finished.training_loss == 0.0
PY
