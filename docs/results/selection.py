"""Does it cost quality to draw XGBLoRA's layers as blocks, or the upper ones more often?

    RANKWRIGHT_DATA=/folder/with/stsb python docs/results/selection.py

all-MiniLM-L6-v2 with a new head on 500 rows of stsb: 100 steps of 8 rows of at most 48 tokens, five
rounds of 20 steps, two of seven layers a round (the pooler is one), rank 8. Three seeds (head,
factors, draws, order of rows), the same for every policy. Prints Pearson's correlation on the first
300 validation rows, and differences to the uniform draw with Student's 95 % interval.
"""

from __future__ import annotations

import gzip
import json
import os
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rankwright.core.loop import Loop
from rankwright.job.model_names import resolve_model
from rankwright.methods import XGBLoRA

POLICIES = ("uniform", "blocks", "top_heavy")
SEEDS, STEPS, ROWS, LENGTH = 3, 100, 8, 48
T_95 = 4.303  # Student's quantile, two degrees of freedom
LR, HEAD_LR = 2e-3, 1e-2


class WithHead(Loop):
    """A loop whose new head has a learning rate of its own."""

    def parameter_groups(
        self, lr: float, weight_decay: float, head_lr: float | None = HEAD_LR
    ) -> list[dict[str, Any]]:
        """As the run's, with `HEAD_LR`."""
        return super().parameter_groups(lr, weight_decay, head_lr)


def trained(policy: str, seed: int, batches: list[dict[str, Tensor]]) -> Any:
    """The model after one run."""
    torch.manual_seed(seed)
    base = AutoModelForSequenceClassification.from_pretrained(resolve_model("minilm"), num_labels=1)
    method = XGBLoRA(r=8, lora_alpha=16, rounds=5, layers_per_round=2, selection=policy)
    model = method.apply(base, seed=seed)
    run = WithHead(model, method, total_steps=STEPS, lr=LR, max_grad_norm=1.0, seed=seed)
    order = torch.Generator().manual_seed(seed)
    while run.step < STEPS:
        for k in torch.randperm(len(batches), generator=order).tolist()[: STEPS - run.step]:
            run.train_step(batches[k])
    run.finish()
    return model.eval()


@torch.no_grad()
def pearson(model: Any, batches: list[dict[str, Tensor]]) -> float:
    """Correlation of predictions and labels."""
    pairs = [(model(**batch).logits.squeeze(1), batch["labels"]) for batch in batches]
    found = torch.stack([torch.cat(column) for column in zip(*pairs, strict=True)])
    return float(torch.corrcoef(found)[0, 1])


def rows(split: str, number: int) -> list[dict[str, Tensor]]:
    """The first rows of a split, in batches."""
    tokenizer = AutoTokenizer.from_pretrained(resolve_model("minilm"))
    path = Path(os.environ["RANKWRIGHT_DATA"]) / "stsb" / f"{split}.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        read = [json.loads(line) for line in lines]
    order = torch.randperm(len(read), generator=torch.Generator().manual_seed(0)).tolist()
    chosen = [read[i] for i in order[:number]] if split == "train" else read[:number]
    batches = []
    for start in range(0, number, ROWS):
        part = chosen[start : start + ROWS]
        pairs = [[row[f"sentence{i}"] for row in part] for i in (1, 2)]
        inputs = tokenizer(
            *pairs, truncation=True, max_length=LENGTH, padding=True, return_tensors="pt"
        )
        batches.append({**inputs, "labels": torch.tensor([float(row["label"]) for row in part])})
    return batches


def main() -> None:
    """Train, and print as it goes."""
    torch.set_num_threads(1)
    train, validation = rows("train", 500), rows("validation", 300)
    found: dict[str, list[float]] = {policy: [] for policy in POLICIES}
    for seed in range(SEEDS):
        for policy in POLICIES:
            found[policy].append(pearson(trained(policy, seed, train), validation))
            print(f"{policy:10} seed {seed}: {found[policy][-1]:.3f}", flush=True)
    for policy in POLICIES:
        values = found[policy]
        print(f"{policy:10} {_interval(values)}")
        if policy != "uniform":
            differences = [a - b for a, b in zip(values, found["uniform"], strict=True)]
            print(f"{policy:10} - uniform {_interval(differences)}")


def _interval(values: list[float]) -> str:
    half = T_95 * statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.mean(values):.3f} ± {half:.3f}"


if __name__ == "__main__":
    main()
