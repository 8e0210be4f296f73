#!/usr/bin/env bash
# transformers 5.23.0: label_smoothing_factor for T5.
#
# Guess: labels are enough, as they are without smoothing; the option comes from the sequence-to-sequence examples.
# Seen:  ValueError of the decoder. With smoothing the Trainer takes the labels out of the batch before the forward pass, so the
#        model cannot make its decoder_input_ids from them; only a DataCollatorForSeq2Seq that was given the model adds those.
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
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, T5Config, T5ForConditionalGeneration

torch.manual_seed(0)
config = T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0)
ids = torch.randint(2, 32, (4, 5)).tolist()


def train(smoothing):
    arguments = Seq2SeqTrainingArguments("out", max_steps=1, label_smoothing_factor=smoothing, report_to=[], save_strategy="no",
                                         use_cpu=True, disable_tqdm=True)
    rows = Dataset.from_dict({"input_ids": ids, "labels": ids})
    try:
        Seq2SeqTrainer(T5ForConditionalGeneration(config), arguments, train_dataset=rows).train()
    except ValueError as error:
        return str(error)
    return "trained"


plain, smooth = train(0.0), train(0.1)
print(f"transformers {transformers.__version__}: without smoothing: {plain}; with it: {smooth}")
assert plain == "trained" and "input_ids or inputs_embeds" in smooth
PY
