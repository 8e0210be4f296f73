#!/usr/bin/env bash
# TRL 1.16.0: RLOOTrainer(beta=0.0) over a PeftModel.
#
# Guess: without a KL term there is no need of a reference, and GRPOTrainer makes none with beta=0.0.
# Seen:  RLOOTrainer adds a second adapter "ref", a copy of the first, whatever beta is. GRPOTrainer does not.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0
"$work/venv/bin/pip" install -q transformers==5.23.0 trl==1.16.0 peft==0.21.2 accelerate==1.15.0 datasets==5.2.0
cd "$work"
HF_HUB_OFFLINE=1 venv/bin/python -W ignore - <<'PY'
import torch
import trl
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

torch.manual_seed(0)
shape = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)
words = Tokenizer(WordLevel({"<pad>": 0, "</s>": 1, "a": 2}, unk_token="a"))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>")
rows = Dataset.from_dict({"prompt": ["a"] * 8})


def zero(completions, **columns):
    return [0.0] * len(completions)


adapters = {}
for trainer, config in ((RLOOTrainer, RLOOConfig), (GRPOTrainer, GRPOConfig)):
    model = get_peft_model(LlamaForCausalLM(LlamaConfig(**shape)), LoraConfig(r=4, target_modules=["q_proj"]))
    arguments = config("out", beta=0.0, bf16=False, report_to=[], use_cpu=True)
    trained = trainer(model, reward_funcs=zero, args=arguments, train_dataset=rows, processing_class=tokenizer).model
    adapters[trainer.__name__] = list(trained.peft_config)
print(f"trl {trl.__version__}: adapters with beta=0.0: {adapters}")
assert adapters == {"RLOOTrainer": ["default", "ref"], "GRPOTrainer": ["default"]}
PY
