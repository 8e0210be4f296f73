"""Supervised fine-tuning with TRL: any of its trainers takes a method.

Run it with: python examples/sft.py [--model NAME_OR_FOLDER] [--steps 30] [--output FOLDER]
"""

import argparse

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)
from trl import SFTConfig, SFTTrainer

from rankwright.methods import XGBLoRA
from rankwright.training import with_method

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def rows() -> Dataset:
    """Which number comes next?"""
    return Dataset.from_list(
        [
            {"prompt": f"after {DIGITS[i]} comes", "completion": f" {DIGITS[(i + 1) % 10]}"}
            for i in range(10)
        ]
        * 4
    )


def small_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word."""
    words = ["<unk>", "<pad>", "<eos>", "after", "comes", *DIGITS]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", eos_token="<eos>"
    )


def small_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A random Llama of three layers."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=64,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a causal language model; a small random one if left out")
    parser.add_argument("--steps", type=int, default=30, help="optimizer steps")
    parser.add_argument("--output", default="adapter", help="folder of adapter and checkpoints")
    options = parser.parse_args()

    if options.model:
        tokenizer = AutoTokenizer.from_pretrained(options.model)
        base = AutoModelForCausalLM.from_pretrained(options.model)
    else:
        tokenizer = small_tokenizer()
        base = small_model(tokenizer)
    args = SFTConfig(
        output_dir=options.output,
        max_steps=options.steps,
        per_device_train_batch_size=8,
        learning_rate=1e-2,
        logging_steps=5,
        save_strategy="no",
        report_to=[],
        bf16=False,
        activation_checkpointing=False,
        dataloader_pin_memory=torch.cuda.is_available(),
    )

    method = XGBLoRA(rounds=3, layers_per_round=None)
    model = method.apply(base)
    trainer = with_method(SFTTrainer)(
        model, args, train_dataset=rows(), processing_class=tokenizer, method=method
    )
    trainer.train()
    trainer.save_model(options.output)
    print(f"a plain PEFT adapter is in {options.output}")


if __name__ == "__main__":
    main()
