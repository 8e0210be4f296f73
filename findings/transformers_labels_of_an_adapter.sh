#!/usr/bin/env bash
# transformers 5.23.0: AutoModelForSequenceClassification.from_pretrained(folder of a PEFT 0.21.2 adapter).
#
# Guess: the adapter's trained head has 5 rows, so the model gets 5 labels; a config.json beside adapter_config.json, where
#        transformers keeps labels, helps it to know.
# Seen:  without num_labels=5 a size mismatch is raised: the model is built with 2 labels first. With the model's config.json in
#        the folder neither call works: the folder is taken for a whole model, whose weights are not there.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0
"$work/venv/bin/pip" install -q transformers==5.23.0 peft==0.21.2
cd "$work"
HF_HUB_OFFLINE=1 venv/bin/python -W ignore - <<'PY'
import peft
import transformers
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification, BertModel

shape = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)
BertModel(BertConfig(**shape)).save_pretrained("base")
base = BertForSequenceClassification.from_pretrained("base", num_labels=5)
model = get_peft_model(base, LoraConfig(r=2, task_type="SEQ_CLS"))
model.save_pretrained("adapter")


def load(**options):
    try:
        return AutoModelForSequenceClassification.from_pretrained("adapter", **options).config.num_labels
    except (OSError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"


alone = load(), load(num_labels=5)
model.config.save_pretrained("adapter")
beside = load(), load(num_labels=5)
print(f"transformers {transformers.__version__}, peft {peft.__version__}: without and with num_labels=5")
print("adapter alone:", alone)
print("config.json beside it:", beside)
assert alone[0].startswith("RuntimeError") and alone[1] == 5
assert all("no file named model.safetensors" in answer for answer in beside)
PY
