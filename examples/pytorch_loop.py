"""Train in a plain PyTorch loop, with a method that learns from a second stream of batches.

Run it with: python examples/pytorch_loop.py [--steps 30] [--output FOLDER]
"""

import argparse

import torch
from transformers import BertConfig, BertForSequenceClassification

from rankwright.core.loop import Loop
from rankwright.methods import BiDoRA

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

    # Is the first word in the first half of the vocabulary? Three quarters train, the rest is the
    # second stream, from which BiDoRA learns the magnitudes.
    words = torch.randint(0, WORDS, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    labels = (words[:, 0] < WORDS // 2).long()
    train, held_out = torch.arange(ROWS).split([ROWS * 3 // 4, ROWS // 4])

    def batch(rows: torch.Tensor, number: int) -> dict[str, torch.Tensor]:
        """Batch `number` of an endless stream: a function of the number alone."""
        places = (torch.arange(BATCH) + number * BATCH) % len(rows)
        return {"input_ids": words[rows[places]], "labels": labels[rows[places]]}

    method = BiDoRA(r=4, lora_alpha=8)
    model = method.apply(small_model())
    run = Loop(
        model,
        method,
        total_steps=options.steps,
        lr=5e-3,
        max_grad_norm=1.0,
        held_out=lambda number: batch(held_out, number),
    )
    for step in range(options.steps):
        loss = run.train_step(batch(train, step))
        phase = run.phases[run.phase_at(step)[0]].name
        print(f"step {step + 1}/{options.steps}  {phase}  loss {loss:.4f}")
    run.finish()
    model.save_pretrained(options.output)
    print(f"a plain PEFT adapter is in {options.output}")


if __name__ == "__main__":
    main()
