#!/usr/bin/env bash
# transformers 5.23.0: the loss that the Trainer logs for GPT2LMHeadModel.
#
# Guess: with one batch per step it is the loss that the model itself gives for that batch.
# Seen:  it is 3/4 of it for rows of 4 tokens, in training and in evaluation; Llama's is right. The Trainer divides by the
#        number of labels and leaves the first of a row out only where the class has loss_type ForCausalLM. GPT-2 has none, so a
#        label that is never predicted is counted, and loss and gradient shrink by (n - 1) / n.
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
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

torch.manual_seed(0)
ids = torch.randint(0, 64, (8, 4))
rows = Dataset.from_dict({"input_ids": ids.tolist(), "labels": ids.tolist()})
gpt2 = GPT2Config(vocab_size=64, n_positions=16, n_embd=16, n_layer=1, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
llama = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)
ratios = {}
for model in (GPT2LMHeadModel(gpt2), LlamaForCausalLM(llama)):
    own = model(ids, labels=ids).loss.item()
    arguments = TrainingArguments("out", max_steps=1, per_device_train_batch_size=8, learning_rate=0.0, logging_steps=1,
                                  report_to=[], save_strategy="no", use_cpu=True, disable_tqdm=True)
    trainer = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows)
    trainer.train()
    logged = trainer.state.log_history[0]["loss"]
    ratios[type(model).__name__] = (logged / own, trainer.evaluate()["eval_loss"] / own)
print(f"transformers {transformers.__version__}: training and evaluation loss over the model's own: {ratios}")
assert all(abs(ratio - 0.75) < 1e-4 for ratio in ratios["GPT2LMHeadModel"])
assert all(abs(ratio - 1) < 1e-4 for ratio in ratios["LlamaForCausalLM"])
PY
