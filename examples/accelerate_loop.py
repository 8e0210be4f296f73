"""Train in a loop with accelerate: one process, or several with `accelerate launch`.

Run it with: python examples/accelerate_loop.py [--steps 30] [--output FOLDER]
"""

import argparse

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, set_seed
from torch.utils.data import DataLoader
from transformers import BertConfig, BertForSequenceClassification

from rankwright.core.loop import Loop
from rankwright.methods import XGBLoRA

ROWS, BATCH, LENGTH, WORDS = 256, 16, 12, 100


def small_model() -> BertForSequenceClassification:
    """A random BERT of two layers; put your own `from_pretrained` here."""
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
    set_seed(0)

    # Is the first word in the first half of the vocabulary?
    words = torch.randint(0, WORDS, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    rows = [{"input_ids": row, "labels": int(row[0] < WORDS // 2)} for row in words]

    # XGBLoRA trains a few layers at a time, so not every parameter has a gradient in every step.
    accelerator = Accelerator(
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)]
    )
    method = XGBLoRA(rounds=3, layers_per_round=1)
    model, batches = accelerator.prepare(
        method.apply(small_model()), DataLoader(rows, batch_size=BATCH, shuffle=True)
    )
    run = Loop(
        model,
        method,
        total_steps=options.steps,
        lr=5e-3,
        backward=accelerator.backward,
    )
    while run.step < options.steps:
        for batch in batches:
            if run.step == options.steps:
                break
            loss = run.train_step(batch)
            phase = run.phases[run.phase_at(run.step - 1)[0]].name
            accelerator.print(f"step {run.step}/{options.steps}  {phase}  loss {loss:.4f}")
    run.finish()
    if accelerator.is_main_process:
        run.model.save_pretrained(options.output)
        print(f"a plain PEFT adapter is in {options.output}")


if __name__ == "__main__":
    main()
