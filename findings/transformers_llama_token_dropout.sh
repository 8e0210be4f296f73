#!/usr/bin/env bash
# transformers 5.23.0: dropout of LlamaForTokenClassification.
#
# Guess: a configuration whose only dropout is attention_dropout=0.0 makes a model without dropout, like
#        LlamaForSequenceClassification.
# Seen:  the head for tokens drops 10 % of its inputs in training. The configuration does not name that rate, and its saved file
#        does not have it; setting config.classifier_dropout (no field of LlamaConfig) is how one turns it off.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0
"$work/venv/bin/pip" install -q transformers==5.23.0
cd "$work"
HF_HUB_OFFLINE=1 venv/bin/python -W ignore - <<'PY'
import torch
import transformers
from transformers import LlamaConfig, LlamaForSequenceClassification, LlamaForTokenClassification

torch.manual_seed(0)
shape = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, pad_token_id=0)
config = LlamaConfig(**shape, num_labels=3)
ids = torch.randint(1, 64, (1, 9))
rates = {name: value for name, value in config.to_dict().items() if "drop" in name}


def differ(cls, config):
    model = cls(config).train()
    return not torch.equal(model(ids).logits, model(ids).logits)


tokens, sequences = differ(LlamaForTokenClassification, config), differ(LlamaForSequenceClassification, config)
silent = differ(LlamaForTokenClassification, LlamaConfig(**shape, num_labels=3, classifier_dropout=0.0))
print(f"transformers {transformers.__version__}: rates {rates}; two passes differ: tokens {tokens}, sequences {sequences}")
print(f"tokens with classifier_dropout=0.0: {silent}")
assert rates == {"attention_dropout": 0.0} and tokens and not sequences and not silent
PY
