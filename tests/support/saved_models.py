"""Tiny models with tokenizers on disk, and a data file, for tests that start from names."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from mixtures import tiny_mixtral
from models import tiny_bert, tiny_llama
from rankwright.training.progress_bars import no_progress_bars

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "<s>", "</s>")
WORDS = tuple(f"w{number}" for number in range(40))  # with SPECIAL fewer than models.VOCABULARY


def save_bert(folder: Path) -> Path:
    """A two-layer BERT whose tokenizer has one token a word."""
    with no_progress_bars():
        tiny_bert(num_labels=2).bert.save_pretrained(folder)
    tokenizer = _word_level()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    _fast(tokenizer, cls_token="[CLS]", sep_token="[SEP]").save_pretrained(folder)
    return folder


def save_llama(folder: Path) -> Path:
    """A three-layer Llama whose tokenizer has one token a word."""
    with no_progress_bars():
        tiny_llama(pad_token_id=0, bos_token_id=4, eos_token_id=5).save_pretrained(folder)
    _fast(_word_level(), bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    return folder


def save_mixtral(folder: Path) -> Path:
    """A two-layer Mixtral of four experts with the tokenizer of `save_llama`."""
    with no_progress_bars():
        tiny_mixtral().save_pretrained(folder)
    _fast(_word_level(), bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    return folder


def labelled_rows(rows: int = 60, seed: int = 0) -> list[dict[str, str]]:
    """Sentences of words from the lower or the upper half of the vocabulary, and which half."""
    draw = random.Random(seed)
    halves = {"low": WORDS[:20], "high": WORDS[20:]}
    return [
        {"sentence": " ".join(draw.choices(halves[topic], k=7)), "topic": topic}
        for topic in draw.choices(list(halves), k=rows)
    ]


def write_rows(path: Path, rows: list[dict[str, str]]) -> Path:
    """Rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def adapter_bytes(run: Path) -> bytes:
    """The adapter file of a finished run."""
    return (run / "adapter" / "adapter_model.safetensors").read_bytes()


def _word_level() -> Tokenizer:
    vocabulary = {word: number for number, word in enumerate(SPECIAL + WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def _fast(tokenizer: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        model_max_length=32,
        **special,
    )
