"""A script: load an adapter with peft in a process that cannot import rankwright."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.modules["rankwright"] = None  # type: ignore[assignment]  # importing it fails from here on

import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer


def main(request_path: str) -> None:
    """Print the accuracy of the adapter that a request file names."""
    request = json.loads(Path(request_path).read_text("utf-8"))
    base = AutoModelForSequenceClassification.from_pretrained(
        request["base"], num_labels=request["num_labels"]
    )
    model = PeftModel.from_pretrained(base, request["adapter"]).eval()
    tokenizer = AutoTokenizer.from_pretrained(request["adapter"])
    correct = 0
    for start in range(0, len(request["rows"]), 64):
        rows = request["rows"][start : start + 64]
        inputs = tokenizer(
            [row["text"] for row in rows],
            truncation=True,
            max_length=request["max_length"],
            padding=True,
            return_tensors="pt",
        )
        with torch.no_grad():
            predicted = model(**inputs).logits.argmax(-1).tolist()
        correct += sum(p == row["label"] for p, row in zip(predicted, rows, strict=True))
    print(json.dumps({"accuracy": correct / len(request["rows"])}))


if __name__ == "__main__":
    main(sys.argv[1])
