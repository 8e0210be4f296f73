#!/usr/bin/env bash
# transformers 5.23.0: a LlamaTokenizer built from a vocabulary and merges.
#
# Guess: a Llama tokenizer puts <s> first; its documentation has add_bos_token True by default.
# Seen:  no <s> unless add_bos_token=True is said. The bos_token is set and in the vocabulary all the same.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0
"$work/venv/bin/pip" install -q transformers==5.23.0
cd "$work"
HF_HUB_OFFLINE=1 venv/bin/python -W ignore - <<'PY'
import transformers
from transformers import LlamaTokenizer

vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, "a": 3, "b": 4, "ab": 5, "\u2581": 6}
ids = {}
for options in ({}, {"add_bos_token": True}):
    tokenizer = LlamaTokenizer(vocab=vocabulary, merges=[("a", "b")], **options)
    ids[str(options)] = tokenizer("ab").input_ids
print(f"transformers {transformers.__version__}: bos_token {tokenizer.bos_token} is {tokenizer.bos_token_id}; ids {ids}")
print("documented:", "add_bos_token (`bool`, *optional*, defaults to `True`)" in LlamaTokenizer.__doc__)
assert ids["{}"][0] != 1 and ids["{'add_bos_token': True}"] == [1, *ids["{}"]]
assert "add_bos_token (`bool`, *optional*, defaults to `True`)" in LlamaTokenizer.__doc__
PY
