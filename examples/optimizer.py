"""LoRA-RITE in a loop of your own over a PEFT model: the optimizer alone.

Run it with: python examples/optimizer.py [--steps 30] [--output FOLDER]
"""

import argparse

import torch
from peft import LoraConfig, TaskType, get_peft_model
from transformers import BertConfig, BertForSequenceClassification

from rankwright.optimizers import LoraRiteOptimizer  # 1

ROWS, BATCH, LENGTH, WORDS = 256, 16, 12, 100


def small_model() -> BertForSequenceClassification:
    """A random BERT of two layers; put your own `from_pretrained` here."""
    torch.manual_seed(0)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=WORDS,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=30, help="optimizer steps")
    parser.add_argument("--output", default="adapter", help="folder of the adapter")
    options = parser.parse_args()

    # Is the first word in the first half of the vocabulary?
    words = torch.randint(0, WORDS, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    labels = (words[:, 0] < WORDS // 2).long()

    config = LoraConfig(task_type=TaskType.SEQ_CLS, r=4, lora_alpha=8, target_modules="all-linear")
    model = get_peft_model(small_model(), config)
    # Every (A, B) is moved together; the new head, which is no pair, gets AdamW.
    optimizer = LoraRiteOptimizer.for_model(model, lr=5e-3)  # 2
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, options.steps)
    for step in range(options.steps):
        rows = (torch.arange(BATCH) + step * BATCH) % ROWS
        loss = model(input_ids=words[rows], labels=labels[rows]).loss
        loss.backward()
        optimizer.step()  # 3: as any other; it limits its steps itself, so nothing clips before it
        scheduler.step()
        optimizer.zero_grad()
        print(f"step {step + 1}/{options.steps}  loss {loss.item():.4f}")
    model.save_pretrained(options.output)
    print(f"a plain PEFT adapter is in {options.output}")


if __name__ == "__main__":
    main()
