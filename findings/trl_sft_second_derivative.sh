#!/usr/bin/env bash
# TRL 1.16.0: second derivatives of SFTTrainer's loss.
#
# Guess: the loss is the model's cross-entropy, a function of plain torch operations: it can be differentiated twice, as bilevel
#        methods, MAML and influence functions need.
# Seen:  torch.autograd.grad(loss, parameters, create_graph=True) raises RuntimeError: by default the loss is computed in chunks
#        by an autograd function whose backward is not differentiable. The model's own loss for the same batch is.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0
"$work/venv/bin/pip" install -q transformers==5.23.0 trl==1.16.0 accelerate==1.15.0 datasets==5.2.0
cd "$work"
HF_HUB_OFFLINE=1 venv/bin/python -W ignore - <<'PY'
import torch
import trl
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

torch.manual_seed(0)
shape = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)
model = LlamaForCausalLM(LlamaConfig(**shape, attn_implementation="eager"))
words = Tokenizer(WordLevel({"<pad>": 0, "</s>": 1, "a": 2}, unk_token="a"))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>")
rows = Dataset.from_dict({"input_ids": torch.randint(2, 64, (4, 8)).tolist()})
arguments = SFTConfig("out", gradient_checkpointing=False, bf16=False, report_to=[], use_cpu=True, disable_tqdm=True)
trainer = SFTTrainer(model, arguments, train_dataset=rows, processing_class=tokenizer)
batch = next(iter(trainer.get_train_dataloader()))
weights = [parameter for name, parameter in model.named_parameters() if "up_proj" in name]


def differentiate_twice(loss):
    try:
        gradient = torch.autograd.grad(loss, weights, create_graph=True)
        torch.autograd.grad(sum(value.square().sum() for value in gradient), weights)
    except RuntimeError as error:
        return str(error)
    return "works"


own = differentiate_twice(LlamaForCausalLM.forward(model, input_ids=batch["input_ids"], labels=batch["labels"]).loss)
sft = differentiate_twice(trainer.compute_loss(model, dict(batch)))
print(f"trl {trl.__version__}, loss_type {arguments.loss_type}: the model's own loss: {own}; SFTTrainer's: {sft}")
assert own == "works" and sft != "works"
PY
