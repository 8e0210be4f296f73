#!/usr/bin/env bash
# PEFT 0.21.2: AdaLoRA's `ranknum`, the divisor of the scaling, over a base in bfloat16.
#
# Guess: ranknum is the constant init_r: the code says that it is deterministic and not saved; the base's dtype does not matter.
# Seen:  over a float32 base it is a constant. Over a bfloat16 base the cast makes it trainable: an optimizer of the trainable
#        parameters moves every layer's scaling. The adapter's file does not hold it, so the loaded adapter scales otherwise.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0
"$work/venv/bin/pip" install -q peft==0.21.2 transformers==5.23.0
cd "$work"
venv/bin/python - 2>/dev/null <<'PY'
import peft
import torch
from peft import AdaLoraConfig, PeftModel, get_peft_model
from transformers import BertConfig, BertForSequenceClassification


def base(dtype):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=16,
    )
    return BertForSequenceClassification(config).to(dtype).eval()


def ranknums(model):
    return [p for name, p in model.named_parameters() if "ranknum" in name]


seen = {}
for dtype in (torch.float32, torch.bfloat16):
    config = AdaLoraConfig(
        task_type="SEQ_CLS", init_r=6, target_r=4, total_step=50, target_modules=["query", "value"]
    )
    model = get_peft_model(base(dtype), config)
    trained = {p.requires_grad for p in ranknums(model)}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3, weight_decay=0.0)
    ids, labels = torch.arange(32).view(4, 8), torch.tensor([0, 1, 0, 1])
    for step in range(1, 41):
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        model.base_model.update_and_allocate(step)
        optimizer.zero_grad()
    model.save_pretrained("adapter")
    loaded = PeftModel.from_pretrained(base(dtype), "adapter")
    moved = max(abs(p.item() - 6) for p in ranknums(model)) > 0.05
    there = max(abs(p.item() - 6) for p in ranknums(loaded)) > 0.05
    seen[str(dtype)] = {"trained": trained, "moved": moved, "moved after loading": there}
print(f"peft {peft.__version__}: {seen}")
assert seen == {
    "torch.float32": {"trained": {False}, "moved": False, "moved after loading": False},
    "torch.bfloat16": {"trained": {True}, "moved": True, "moved after loading": False},
}
PY
