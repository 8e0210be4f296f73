"""Logistic regression over frozen sentence embeddings: what the task stdlib-docs gives for free.

Run it with: python examples/tasks/stdlib_docs_baseline.py [--model NAME_OR_FOLDER]
"""

import argparse

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from transformers import AutoModel, AutoTokenizer

from rankwright.job.model_names import resolve_model
from rankwright.tasks import load_task

BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="minilm", help="an encoder")
    path = resolve_model(parser.parse_args().model)
    prepared = load_task("stdlib-docs", max_length=256).prepare(AutoTokenizer.from_pretrained(path))
    model = AutoModel.from_pretrained(path).eval()

    def embedded(rows: list[dict]) -> np.ndarray:
        batch = prepared.collator(rows)
        batch.pop("labels")
        with torch.no_grad():
            hidden = model(**batch).last_hidden_state  # (rows, tokens, 384)
        mask = batch["attention_mask"].unsqueeze(-1)
        return ((hidden * mask).sum(1) / mask.sum(1)).numpy()

    def embeddings(split: str) -> np.ndarray:
        rows = prepared.dataset(split).to_list()
        starts = range(0, len(rows), BATCH)
        return np.concatenate([embedded(rows[start : start + BATCH]) for start in starts])

    x = {split: embeddings(split) for split in ("train", "validation")}
    y = {split: prepared.dataset(split)["labels"][:] for split in x}
    for C in (1, 10, 100):
        head = LogisticRegression(C=C, max_iter=3000).fit(x["train"], y["train"])
        accuracy = head.score(x["validation"], y["validation"])
        print(f"C={C}: validation accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main()
