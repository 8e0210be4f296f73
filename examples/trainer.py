"""A script with transformers.Trainer, and the three lines that give it a method.

Run it with: python examples/trainer.py [--steps 30] [--output FOLDER]
"""

import argparse

import torch
from transformers import BertConfig, BertForSequenceClassification, TrainingArguments

from rankwright.methods import BiDoRA
from rankwright.training import Trainer

ROWS, LENGTH, WORDS = 256, 12, 100


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
    parser.add_argument("--output", default="adapter", help="folder of adapter and checkpoints")
    options = parser.parse_args()

    # Is the first word in the first half of the vocabulary?
    words = torch.randint(0, WORDS, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    rows = [{"input_ids": row, "labels": int(row[0] < WORDS // 2)} for row in words]
    args = TrainingArguments(
        output_dir=options.output,
        max_steps=options.steps,
        per_device_train_batch_size=16,
        learning_rate=5e-3,
        logging_steps=5,
        save_steps=10,
        save_total_limit=2,
        report_to=[],
        dataloader_pin_memory=torch.cuda.is_available(),
    )

    method = BiDoRA(r=4, lora_alpha=8)  # 1
    model = method.apply(small_model())  # 2
    trainer = Trainer(model, args, train_dataset=rows, method=method)  # 3: import and method=
    trainer.train()
    trainer.save_model(options.output)
    print(trainer.cost())
    print(f"a plain PEFT adapter is in {options.output}")


if __name__ == "__main__":
    main()
