"""The worked example of docs/guides/your-own-method.md keeps what the guide says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from transformers import TrainerCallback

from models import batch, rows_for, same_bits, tiny_bert
from rankwright.cli.quiet import quiet
from rankwright.core.loop import Loop
from rankwright.errors import MethodError, TrainingError
from rankwright.job import RunFolder, TrainConfig, load_adapted, train
from rankwright.job.tokenizers import load_tokenizer
from saved_models import adapter_bytes

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guides"


@pytest.fixture(autouse=True)
def _guide(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(GUIDE)
    with quiet():
        yield


@pytest.fixture
def config(bert_folder: Path, rows_file: Path, tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        model=str(bert_folder),
        data=str(rows_file),
        text_column="sentence",
        label_column="topic",
        validation_share=0.2,
        steps=6,
        batch_size=4,
        learning_rate=1e-2,
        save_steps=1,
        keep_checkpoints=10,
        output=str(tmp_path / "run"),
    )


def method(**fields: Any) -> Any:
    from my_method import AveragedLoRA

    return AveragedLoRA(r=2, **fields)


class Watch(TrainerCallback):
    """Keeps what every optimizer step leaves; stops in the middle if asked to."""

    def __init__(self, model: PeftModel, crash_at: int | None = None) -> None:
        self.model, self.crash_at = model, crash_at
        self.seen: list[dict[str, torch.Tensor]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        factors = get_peft_model_state_dict(self.model)
        self.seen.append({name: value.detach().clone() for name, value in factors.items()})

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.crash_at:
            raise KeyboardInterrupt


def test_the_guide_has_the_file_that_is_tested() -> None:
    guide = (GUIDE / "your-own-method.md").read_text(encoding="utf-8")
    assert f"```python\n{(GUIDE / 'my_method.py').read_text(encoding='utf-8')}```" in guide


def test_what_is_saved_is_the_mean_of_the_last_steps(config: TrainConfig) -> None:
    watches = []

    def watch(trainer: Any) -> TrainerCallback:
        watches.append(Watch(trainer.model))
        return watches[0]

    train(config, method(average_from=0.5), callback=watch)
    saved = get_peft_model_state_dict(watches[0].model)
    for name, value in saved.items():
        expected = torch.stack([seen[name] for seen in watches[0].seen[3:]]).mean(0)
        torch.testing.assert_close(value, expected)
        assert not torch.equal(value, watches[0].seen[-1][name]) or "lora_A" in name


@pytest.mark.parametrize("crash_at", [2, 5])  # before and within the averaged part
def test_a_stopped_run_goes_on_to_the_same_bits(
    config: TrainConfig, crash_at: int, tmp_path: Path
) -> None:
    import dataclasses

    def crash(trainer: Any) -> TrainerCallback:
        return Watch(trainer.model, crash_at)

    with pytest.raises(KeyboardInterrupt):
        train(config, method(), callback=crash)
    train(config, method(), resume=True)
    whole = dataclasses.replace(config, output=str(tmp_path / "whole"))
    train(whole, method())
    assert adapter_bytes(tmp_path / "run") == adapter_bytes(tmp_path / "whole")


def test_a_run_that_ends_before_the_average_keeps_its_last_step() -> None:
    model = method().apply(tiny_bert())
    run = Loop(model, method(), total_steps=4, lr=1e-2)
    run.train_step(batch(rows_for(model, 8)))
    left = {name: value.clone() for name, value in get_peft_model_state_dict(model).items()}
    run.finish()
    assert all(torch.equal(left[n], v) for n, v in get_peft_model_state_dict(model).items())


def test_it_starts_as_the_base_and_never_writes_it() -> None:
    base, given = tiny_bert().eval(), batch(rows_for(tiny_bert(), 8))
    with torch.no_grad():
        expected = base(**given).logits
        model = method().apply(base).eval()
        assert torch.equal(model(**given).logits, expected)
        run = Loop(model, method(), total_steps=4, lr=1e-2)
    for _ in range(4):
        run.train_step(given)
    run.finish()
    model.eval()
    # modules_to_save is the head: a classifier of its own, so compare the encoder
    with torch.no_grad(), model.disable_adapter():
        assert torch.equal(model(**given).logits, expected)


def test_two_engines_and_two_runs_agree() -> None:
    given = batch(rows_for(tiny_bert(), 8))
    states = []
    for _ in range(2):
        model = method().apply(tiny_bert(), seed=3)
        run = Loop(model, method(), total_steps=4, lr=1e-2)
        for _ in range(4):
            run.train_step(given)
        run.finish()
        states.append(get_peft_model_state_dict(model))
    assert same_bits(*states)


def test_plain_peft_loads_it_and_its_folder_names_its_module(config: TrainConfig) -> None:
    folder, result = train(config, method())
    read = RunFolder.read(folder.path)
    assert "name: my_method:AveragedLoRA" in folder.description.read_text("utf-8")
    assert read.method == method()
    prepared = config.make_task().prepare(load_tokenizer(config.model))
    assert prepared.evaluate(load_adapted(read, prepared), 64) == result.after


def test_a_wrong_field_is_refused_by_name() -> None:
    with pytest.raises(MethodError, match=r"average_from = 1\.5: expected a share"):
        method(average_from=1.5)


def test_a_run_that_never_averaged_is_an_error() -> None:
    model = method().apply(tiny_bert())
    run = Loop(model, method(), total_steps=2)
    run.fire("before_step")
    with pytest.raises(TrainingError, match="after_step"):
        run.finish()


def test_on_the_command_line(config: TrainConfig, tmp_path: Path) -> None:
    """A process of its own, in the folder of the file: the method is found there."""
    options = ["--model", config.model, "--data", str(config.data), "--steps", "4"]
    options += ["--text-column", "sentence", "--label-column", "topic"]
    options += ["--validation-share", "0.2", "--output", str(tmp_path / "cli")]
    named = ["--method", "my_method:AveragedLoRA", "--method.average_from", "0.25"]
    rankwright = Path(sys.executable).with_name("rankwright")
    done = subprocess.run(
        [str(rankwright), "train", *named, *options],
        cwd=GUIDE,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "averaged_lora on train" in done.stdout
    assert RunFolder.read(tmp_path / "cli").method.average_from == 0.25
