"""Models of every kind of loss, and rows that are scored on different numbers of targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel
from transformers.trainer_callback import PrinterCallback

from models import VOCABULARY, batch, tokens
from rankwright.core.loop import Loop
from rankwright.core.method import Method
from rankwright.methods import BALoRA, BiDoRA, LoRA
from rankwright.training import Trainer
from trainers import adapter, arguments

LENGTH = 8
COUNTS = (8, 0, 3, 1)
"""Labels that are scored of each row, the last ones: the second row has none."""

_BERT = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48}
_BERT |= {"num_hidden_layers": 1, "num_attention_heads": 4, "max_position_embeddings": 32}
_LLAMA = {**_BERT, "num_key_value_heads": 2, "pad_token_id": 0}
_T5 = {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_heads": 4}
_T5 |= {"num_layers": 1, "dropout_rate": 0.0, "decoder_start_token_id": 0}
_GPT2 = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 32}
_GPT2 |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
_NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_CONFIGS: dict[str, dict[str, Any]] = {
    "Bert": {**_BERT, **_NO_DROPOUT},
    "Llama": _LLAMA,
    "T5": _T5,
    "GPT2": _GPT2,
}

Labels = Callable[[int, Tensor], dict[str, Any]]


def _positions(classes: int) -> Labels:
    """A label for each of the last positions of a row."""

    def labels(row: int, ids: Tensor) -> dict[str, Any]:
        kept = torch.arange(LENGTH) >= LENGTH - COUNTS[row]
        return {"labels": torch.where(kept, ids % classes, -100)}

    return labels


def _shifted(row: int, ids: Tensor) -> dict[str, Any]:
    """Labels, and the decoder's inputs, which a smoothed loss is given instead of them."""
    labels = _positions(VOCABULARY)(row, ids)["labels"]
    return {"labels": labels, "decoder_input_ids": F.pad(ids[:-1], (1, 0))}


def _row(value: Callable[[int], Any]) -> Labels:
    return lambda row, _ids: {"labels": value(row)}


def _span(row: int, _ids: Tensor) -> dict[str, Any]:
    """An answer, which in the second row lies beyond its end."""
    start = 20 if row == 1 else row
    return {"start_positions": start, "end_positions": start + 2}


@dataclass(frozen=True)
class Kind:
    """A kind of loss.

    Attributes:
        name: Family and class of the model.
        labels: Row and token ids -> labels.
        config: Further fields of its configuration.
        smooth: Whether label smoothing makes sense with it.
    """

    name: tuple[str, str]
    labels: Labels
    config: dict[str, Any]
    smooth: bool = True

    def build(self) -> PreTrainedModel:
        torch.manual_seed(0)
        family, head = self.name
        config = getattr(transformers, f"{family}Config")(**_CONFIGS[family], **self.config)
        model: PreTrainedModel = getattr(transformers, family + head)(config).double()
        return model

    def rows(self) -> list[dict[str, Any]]:
        ids = tokens(len(COUNTS), LENGTH)
        return [{"input_ids": ids[n], **self.labels(n, ids[n])} for n in range(len(COUNTS))]


KINDS = {
    "token classes": Kind(("Bert", "ForTokenClassification"), _positions(3), {"num_labels": 3}),
    "token classes of a decoder": Kind(
        ("Llama", "ForTokenClassification"),
        _positions(3),
        {"num_labels": 3, "classifier_dropout": 0.0},
    ),
    "masked": Kind(("Bert", "ForMaskedLM"), _positions(VOCABULARY), {}),
    "causal": Kind(("Llama", "ForCausalLM"), _positions(VOCABULARY), {}),
    "causal by another name": Kind(("GPT2", "LMHeadModel"), _positions(VOCABULARY), {}),
    "sequence to sequence": Kind(("T5", "ForConditionalGeneration"), _shifted, {}),
    "classes": Kind(("Bert", "ForSequenceClassification"), _row(lambda n: n % 2), {}),
    "classes, one unknown": Kind(
        ("Llama", "ForSequenceClassification"), _row(lambda n: (0, -100, 1, 1)[n]), {}
    ),
    "numbers": Kind(
        ("Bert", "ForSequenceClassification"), _row(lambda n: 0.5 * n), {"num_labels": 1}, False
    ),
    "several classes": Kind(
        ("Bert", "ForSequenceClassification"),
        _row(lambda n: torch.tensor([n % 2, 1.0, n // 2])),
        {"num_labels": 3, "problem_type": "multi_label_classification"},
        False,
    ),
    "answers": Kind(("Bert", "ForQuestionAnswering"), _span, {}, False),
}


def one_step(
    kind: Kind, output: Path, size: int, accumulation: int = 1, **changes: Any
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The adapter after a step of gradient descent on all rows, and what was logged of it."""
    method = changes.pop("method", LoRA(r=2, lora_alpha=4))
    cls, options = changes.pop("cls", Trainer), changes.pop("options", {})
    values = {
        "max_steps": 1,
        "per_device_train_batch_size": size,
        "gradient_accumulation_steps": accumulation,
        "optim": "sgd",
        "learning_rate": 0.5,
        "weight_decay": 0.0,
        "max_grad_norm": 0.0,
        **changes,
    }
    options = {"train_dataset": kind.rows(), **options}
    model = method.apply(kind.build(), seed=3)
    trainer = cls(model, arguments(output, **values), method=method, **options)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return adapter(trainer.model), trainer.state.log_history[0]


_PENALISED = BALoRA(
    r=2, lora_alpha=4, niter=2, svd_k=1, spectral=0.0, consistency=0.5, diversity=0.5
)
_SEARCHING = BiDoRA(r=2, lora_alpha=4, retrain=False, upper_lr=0.1)

# the covariance of BA-LoRA's classes is no mean over rows
TOGETHER: dict[str, tuple[str, Method]] = {
    "classes of tokens": ("token classes", LoRA(r=2, lora_alpha=4)),
    "an encoder and a decoder": ("sequence to sequence", LoRA(r=2, lora_alpha=4)),
    "a penalty": ("causal", _PENALISED),
    "a penalty in place": ("sequence to sequence", _PENALISED),
    "held-out rows": ("causal", _SEARCHING),
    "held-out rows in place": ("token classes", _SEARCHING),
}
"""Kinds and methods whose steps are those of one batch, however many processes take them."""


def together(
    name: str, output: Path, size: int, accumulation: int = 1
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """A step of one of `TOGETHER`; see `one_step`."""
    kind, method = KINDS[TOGETHER[name][0]], TOGETHER[name][1]
    options = {"held_out_dataset": kind.rows()[::-1]} if method is _SEARCHING else {}
    return one_step(kind, output, size, accumulation, method=method, options=options)


def by_loop(rank: int = 0, processes: int = 1) -> dict[str, Tensor]:
    """The adapter after a step of a `Loop` on all rows, every process with its own of them."""
    kind, method = KINDS["token classes"], LoRA(r=2, lora_alpha=4)
    model = method.apply(kind.build(), seed=3)
    wrapped = DistributedDataParallel(model) if processes > 1 else model
    run = Loop(wrapped, method, total_steps=1, lr=0.5, optimizer=torch.optim.SGD)
    rows = kind.rows()[rank::processes]
    run.train_step(*(batch([row]) for row in rows))
    return adapter(model)


EVALUATED = ("classes", "token classes", "causal", "numbers")


def evaluated(name: str, output: Path, size: int) -> float:
    """The loss of an evaluation of a kind's rows without the one that has no target."""
    rows = [row for n, row in enumerate(KINDS[name].rows()) if COUNTS[n]]
    method = LoRA(r=2, lora_alpha=4)
    trainer = Trainer(
        method.apply(KINDS[name].build()),
        arguments(output, per_device_eval_batch_size=size),
        eval_dataset=rows + rows[:1],
        method=method,
    )
    trainer.remove_callback(PrinterCallback)
    loss: float = trainer.evaluate()["eval_loss"]
    return loss
