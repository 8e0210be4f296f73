#!/usr/bin/env bash
# transformers 5.23.0: a Trainer with gradient_accumulation_steps over a BERT classifier.
#
# Guess: four micro-batches of one row give the loss and the gradient of one batch of four; accumulation was mended in 2024.
# Seen:  both are four times as large. The Trainer takes a forward with **kwargs to divide its loss by num_items_in_batch and
#        does not divide by the steps itself; the classifiers take **kwargs and ignore that argument.
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
from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification, Trainer, TrainingArguments

rows = [{"input_ids": [5 + i] * 8, "attention_mask": [1] * 8} for i in range(4)]


def step(cls, labels, size, accumulate):
    torch.manual_seed(0)
    shape = dict(vocab_size=99, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, num_labels=2)
    model = cls(BertConfig(**shape, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
    before = model.classifier.bias.detach().clone()
    arguments = TrainingArguments(
        "out", max_steps=1, per_device_train_batch_size=size, gradient_accumulation_steps=accumulate, optim="sgd", learning_rate=1.0,
        lr_scheduler_type="constant", max_grad_norm=0, train_sampling_strategy="sequential", logging_steps=1, report_to=[],
        save_strategy="no", use_cpu=True, disable_tqdm=True)
    data = Dataset.from_list([{**row, "labels": label} for row, label in zip(rows, labels)])
    trainer = Trainer(model, arguments, train_dataset=data)
    trainer.train()
    return (model.classifier.bias.detach() - before)[0].item(), trainer.state.log_history[0]["loss"]


for cls, labels in ((BertForSequenceClassification, [0, 1, 0, 1]), (BertForTokenClassification, [[i % 2] * 8 for i in range(4)])):
    (whole, loss), (parts, sum_of_losses) = step(cls, labels, 4, 1), step(cls, labels, 1, 4)
    print(f"transformers {transformers.__version__}, {cls.__name__}: update {whole:.4f} and loss {loss:.4f} in one batch, "
          f"{parts:.4f} and {sum_of_losses:.4f} in four")
    assert abs(parts / whole - 4) < 1e-3 and abs(sum_of_losses / loss - 4) < 1e-3
PY
