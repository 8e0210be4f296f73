"""One row a trainer of TRL: what a step of it takes, and what it is refused with."""

from __future__ import annotations

import importlib
import os
import string
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from models import VOCABULARY, tiny_llama

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # a warning on import

WORDS = [f"w{number}" for number in range(VOCABULARY - 3)]
CHAT = (
    "{% for m in messages %}w1 {{ m['content'] }} {% if m['role'] == 'assistant' %}<eos> "
    "{% endif %}{% endfor %}{% if add_generation_prompt %}w1 {% endif %}"
)


def word_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word."""
    known = ["<unk>", "<pad>", "<eos>", *WORDS]
    words = Tokenizer(models.WordLevel({w: n for n, w in enumerate(known)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", pad_token="<pad>", eos_token="<eos>"
    )


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a letter or digit."""
    known = ["<unk>", "<pad>", "<eos>", "\u0120", *string.ascii_lowercase, *string.digits]
    letters = Tokenizer(models.BPE({c: n for n, c in enumerate(known)}, []))
    letters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=letters, unk_token="<unk>", pad_token="<pad>", eos_token="<eos>"
    )


def language_model(seed: int = 0) -> LlamaForCausalLM:
    """A tiny Llama that ends where the tokenizers do."""
    return tiny_llama(seed, bos_token_id=None, eos_token_id=2, pad_token_id=1)


def reward_model() -> LlamaForSequenceClassification:
    """A tiny Llama with one output."""
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2}
    ends = {"bos_token_id": None, "eos_token_id": 2, "pad_token_id": 1, "num_labels": 1}
    return LlamaForSequenceClassification(LlamaConfig(**sizes, **heads, **ends))


def by_length(completions: list[Any], **_: Any) -> list[float]:
    """A reward that differs within a group."""
    return [float(n % 2) + len(str(c)) % 3 for n, c in enumerate(completions)]


def binary(completions: list[Any], **_: Any) -> list[float]:
    """A reward of 0 or 1."""
    return [float(n % 2) for n in range(len(completions))]


Rows = list[dict[str, Any]]
ROWS = 8
PROMPTS: Rows = [{"prompt": WORDS[n]} for n in range(ROWS)]
COMPLETED: Rows = [{"prompt": WORDS[n], "completion": f" {WORDS[n + 1]}"} for n in range(ROWS)]
JUDGED: Rows = [{**row, "label": n % 2 == 0} for n, row in enumerate(COMPLETED)]
PAIRS: Rows = [
    {"prompt": WORDS[n], "chosen": f" {WORDS[n]}", "rejected": f" {WORDS[n + 1]}"}
    for n in range(ROWS)
]
TRIPLES: Rows = [{**row, "reference": f" {WORDS[9]}"} for row in PAIRS]
TALKS: Rows = [
    {
        "messages": [
            {"role": "user", "content": WORDS[n]},
            {"role": "assistant", "content": f"{WORDS[n + 1]} {WORDS[n + 2]}"},
        ]
    }
    for n in range(ROWS)
]
ASKED: Rows = [{"prompt": row["messages"][:1]} for row in TALKS]
SHOWN: Rows = [{**row, "privileged_context": WORDS[5]} for row in PROMPTS]

GROUPS = {"num_generations": 2, "max_completion_length": 4}
GENERATES = "learns from held-out rows, and {name} generates the completions"
SERVER = "{name} takes no method: it loads its model by name"


@dataclass(frozen=True)
class Row:
    """A trainer as the tests run it.

    Attributes:
        rows: Its data.
        settings: Fields of its configuration.
        options: Its other arguments.
        bidora: What refuses BiDoRA; None where it trains.
        every: What refuses any method; None where LoRA trains.
        module: Where in `trl.experimental` it is; "" for `trl`.
        model: Builds the base model.
        tokenizer: Builds the tokenizer.
    """

    rows: Rows = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    bidora: str | None = None
    every: str | None = None
    module: str = ""
    model: Callable[[], Any] = language_model
    tokenizer: Callable[[], PreTrainedTokenizerFast] = word_tokenizer


_REWARD, _TEACHER = {"reward_funcs": by_length}, {"teacher_model": None}
_SHORT = {"max_completion_length": 4}

TABLE: dict[str, Row] = {
    "SFTTrainer": Row(COMPLETED),
    "DPOTrainer": Row(PAIRS),
    "KTOTrainer": Row(
        JUDGED, bidora="train_sampling_strategy='sequential'.* KTOTrainer, with a loss_type"
    ),
    "RewardTrainer": Row(PAIRS, model=reward_model),
    "GRPOTrainer": Row(PROMPTS, GROUPS, _REWARD, GENERATES),
    "RLOOTrainer": Row(PROMPTS, GROUPS, _REWARD, GENERATES),
    "DistillationTrainer": Row(ASKED, _SHORT, _TEACHER, GENERATES),
    "A2POTrainer": Row(
        PROMPTS,
        {**_SHORT, "num_value_samples": 2, "filter_all_incorrect": False},
        {"reward_funcs": binary},
        GENERATES,
        module="a2po",
    ),
    "CPOTrainer": Row(PAIRS, {"max_length": 16}, module="cpo"),
    "ORPOTrainer": Row(PAIRS, {"max_length": 16}, module="orpo"),
    "TPOTrainer": Row(TRIPLES, module="tpo"),
    "GKDTrainer": Row(
        TALKS, {"max_new_tokens": 4, "max_length": 16}, _TEACHER, GENERATES, module="gkd"
    ),
    "GMPOTrainer": Row(PROMPTS, GROUPS, _REWARD, GENERATES, module="gmpo"),
    "GOLDTrainer": Row(
        TALKS,
        {**_SHORT, "max_length": 32, "use_uld_loss": False},
        _TEACHER,
        GENERATES,
        module="gold",
        tokenizer=byte_tokenizer,
    ),
    "IWOPDTrainer": Row(TALKS, {**_SHORT, "max_length": 16}, _TEACHER, GENERATES, module="iw_opd"),
    "OnlineDPOTrainer": Row(
        PROMPTS, {"max_new_tokens": 4, "max_length": 16}, _REWARD, GENERATES, module="online_dpo"
    ),
    "SDFTTrainer": Row(
        SHOWN,
        {**GROUPS, "max_prompt_length": 16, "distillation_topk": 8},
        {},
        GENERATES,
        module="sdft",
    ),
    "SDPOTrainer": Row(
        PROMPTS, {**GROUPS, "max_prompt_length": 16}, _REWARD, GENERATES, module="sdpo"
    ),
    "ServerDistillationTrainer": Row(
        every="ServerDistillationTrainer takes no method", module="server_distillation"
    ),
    "AsyncGRPOTrainer": Row(every=SERVER, module="async_grpo"),
    "AsyncDistillationTrainer": Row(every=SERVER, module="async_distillation"),
}


def trainer_class(name: str) -> type:
    """A trainer of the table."""
    module = TABLE[name].module
    found: type = getattr(
        importlib.import_module(f"trl.experimental.{module}" if module else "trl"), name
    )
    return found


def configuration(name: str, output: Path, **changes: Any) -> Any:
    """Its configuration for one step."""
    module = importlib.import_module(trainer_class(name).__module__.rpartition(".")[0])
    values = {
        "max_steps": 1,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,
        "activation_checkpointing": False,
        "dataloader_pin_memory": False,
        **TABLE[name].settings,
        **changes,
    }
    return getattr(module, name.replace("Trainer", "Config"))(str(output), **values)


def arguments(name: str, output: Path) -> dict[str, Any]:
    """Its other arguments, without the model."""
    row = TABLE[name]
    tokenizer = row.tokenizer()
    tokenizer.chat_template = CHAT
    options = dict(row.options)
    if "teacher_model" in options:  # one that knows its tokenizer by name
        tokenizer.save_pretrained(output / "teacher")
        options["teacher_model"] = language_model(1)
        options["teacher_model"].config._name_or_path = str(output / "teacher")
    return {
        "train_dataset": Dataset.from_list(row.rows),
        "processing_class": tokenizer,
        **options,
    }
