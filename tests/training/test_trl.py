"""The trainers of TRL take a method."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.trainer_callback import PrinterCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from method_table import BATCH, BY_FORWARD, STEPS, TABLE, method_named, one_of_each
from models import VOCABULARY, same_bits, tiny_llama
from rankwright.core.method import Method
from rankwright.errors import MethodError
from rankwright.peft_layers.layers import adapted_layers
from rankwright.procedures.bilevel.hypergradient import Mode
from rankwright.training import with_method
from trainers import adapter, logits

WORDS = [f"w{number}" for number in range(VOCABULARY - 3)]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word."""
    known = ["<unk>", "<pad>", "<eos>", *WORDS]
    words = Tokenizer(models.WordLevel({w: n for n, w in enumerate(known)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", pad_token="<pad>", eos_token="<eos>"
    )


def base(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    return tiny_llama(
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def settings(output: Path, **changes: Any) -> dict[str, Any]:
    return {
        "output_dir": str(output),
        "max_steps": STEPS,
        "per_device_train_batch_size": BATCH,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,
        "activation_checkpointing": False,
        "dataloader_pin_memory": False,
        **changes,
    }


def fine_tuned(
    method: Method, tokenizer: PreTrainedTokenizerFast, output: Path, **changes: Any
) -> Any:
    """An SFT run on prompts whose completion is the prompt's first word."""
    resume = changes.pop("resume", None)
    rows = Dataset.from_list(
        [
            {"prompt": f"{WORDS[n]} {WORDS[n + 1]}", "completion": f" {WORDS[n]}"}
            for n in range(4 * BATCH)
        ]
    )
    trainer = with_method(SFTTrainer)(
        method.apply(base(tokenizer), seed=3),
        SFTConfig(**settings(output, **changes)),
        train_dataset=rows,
        processing_class=tokenizer,
        method=method,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.mark.parametrize("name", BY_FORWARD)
def test_supervised_fine_tuning(
    name: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    saving = {"save_strategy": "steps", "save_steps": 3}
    trainer = fine_tuned(method_named(name), tokenizer, tmp_path, **saving)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert min(losses) < losses[0]
    assert trainer.cost().passes == TABLE[name].passes
    assert [p.name for p in trainer.run.phases] == [p for p, _ in TABLE[name].phases]
    trainer.save_model(str(tmp_path / "final"))
    plain = PeftModel.from_pretrained(base(tokenizer), tmp_path / "final")
    assert float((logits(plain, "llama") - logits(trainer.model, "llama")).abs().max()) <= 3e-6
    again = fine_tuned(
        method_named(name), tokenizer, tmp_path, resume=str(tmp_path / "checkpoint-3")
    )
    assert same_bits(adapter(again.model), adapter(trainer.model))


@pytest.mark.parametrize("name", ["olora", "xgblora", "sora"])
def test_an_adapter_that_cannot_be_copied_needs_a_reference(
    name: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    method = method_named(name)
    with pytest.raises(MethodError, match="pass the base model as ref_model"):
        with_method(DPOTrainer)(
            method.apply(base(tokenizer)),
            args=DPOConfig(**settings(tmp_path)),
            processing_class=tokenizer,
            method=method,
        )


def preferring(
    method: Method, tokenizer: PreTrainedTokenizerFast, output: Path, **changes: Any
) -> Any:
    """A DPO run that prefers to repeat the prompt."""
    rows = Dataset.from_list(
        [
            {"prompt": WORDS[n], "chosen": f" {WORDS[n]}", "rejected": f" {WORDS[n + 1]}"}
            for n in [0, 1] * (2 * BATCH)
        ]
    )
    # TRL copies the fresh adapter as its reference, which it cannot do with factors of another kind
    model = method.apply(base(tokenizer), seed=3)
    layers = adapted_layers(model).values()
    plain = all(isinstance(layer.lora_A["default"], torch.nn.Linear) for layer in layers)
    trainer = with_method(DPOTrainer)(
        model,
        ref_model=None if plain else base(tokenizer),
        args=DPOConfig(**settings(output, learning_rate=2e-3, **changes)),
        train_dataset=rows,
        processing_class=tokenizer,
        method=method,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trainer


def losses_of(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


# its reference is the fresh adapter, which is the init's doing
@pytest.mark.parametrize("name", one_of_each("layer", "init", "penalty", "procedure"))
def test_preference_optimisation(
    name: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    trainer = preferring(method_named(name), tokenizer, tmp_path)
    losses = losses_of(trainer)
    # the reference is the base model, which a fresh adapter is: log 2
    assert losses[0] == pytest.approx(float(torch.tensor(2.0).log()), abs=1e-6)
    assert losses[-1] < losses[0]
    assert trainer.cost().passes == TABLE[name].passes


# TRL calls transformers by names that are deprecated
@pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed in v6:FutureWarning")
# a forward of the reference lets PEFT train the adapter again in the middle of a loss
@pytest.mark.parametrize("run", [preferring, fine_tuned])
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        *((name, {}) for name in ("lora", "cola", "xgblora", "sora", "flat_lora", "ba_lora")),
        *(("bidora", {"hypergradient": mode}) for mode in get_args(Mode) if mode != "exact"),
        ("bidora", {"lora_dropout": 0.3, "fd_share": 0.5}),
        ("bidora", {"modules_to_save": ["model.layers.1.input_layernorm", "lm_head"]}),
    ],
    ids=str,
)
def test_activation_checkpoints_change_no_number(
    run: Any, name: str, fields: dict[str, Any], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    method = method_named(name, **fields)
    plain, again = (
        run(method, tokenizer, tmp_path / str(on), activation_checkpointing=on)
        for on in (False, True)
    )
    assert again.model.get_base_model().is_activation_checkpointing
    assert losses_of(again) == pytest.approx(losses_of(plain), rel=1e-4)
    found, expected = adapter(again.model), adapter(plain.model)
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-3, atol=1e-4)


def test_the_exact_hypergradient_needs_a_loss_that_is_differentiable_twice(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """TRL's loss in chunks of the vocabulary is not."""
    with pytest.raises(MethodError, match=r"differentiates the loss twice.*TRL.*\"fd_central\""):
        fine_tuned(method_named("bidora", hypergradient="exact"), tokenizer, tmp_path)
