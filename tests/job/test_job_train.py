"""One run from its description: nothing half written, exactly resumed, never another run."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, BertForMaskedLM, TrainerCallback

from rankwright.cli.quiet import quiet
from rankwright.core.method import Method
from rankwright.errors import MethodError, TrainingError
from rankwright.job import RunFolder, RunResult, TrainConfig, train
from rankwright.job.lock import FolderLock
from rankwright.job.models import load_base
from rankwright.job.run import set_up
from rankwright.job.tokenizers import load_tokenizer
from rankwright.methods import BiDoRA, LoRA, XGBLoRA
from rankwright.tasks import TaskError
from rankwright.training import Trainer
from saved_models import adapter_bytes, labelled_rows, write_rows


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    with quiet():
        yield


class _Stop(TrainerCallback):
    """Lets so many steps pass; then a SIGTERM, which ends with the next one, or a crash."""

    def __init__(self, step: int, how: str) -> None:
        self._step, self._how = step, how

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self._step:
            if self._how == "crash":
                raise KeyboardInterrupt
            os.kill(os.getpid(), signal.SIGTERM)


def losses(folder: RunFolder) -> list[float]:
    """All losses of the log, and last the mean over the run."""
    logged = [entry.get("loss", entry.get("train_loss")) for entry in folder.logged()]
    found = [loss for loss in logged if loss is not None]
    assert min(found) > 0
    return found


def stopped(config: TrainConfig, method: Method, step: int, how: str = "SIGTERM") -> RunResult:
    def stop(trainer: Trainer) -> TrainerCallback:
        return _Stop(step, how)

    return train(config, method, callback=stop)[1]


@pytest.mark.parametrize(
    ("method", "how"),
    [
        (BiDoRA(r=2, upper_betas=(0.9, 0.98)), "SIGTERM"),
        (XGBLoRA(rounds=3, layers_per_round=None), "crash"),
    ],
    ids=["bidora-SIGTERM", "xgblora-crash"],
)
def test_a_resumed_run_ends_at_the_same_bits(
    config: TrainConfig, method: Method, how: str, tmp_path: Path
) -> None:
    if how == "crash":
        with pytest.raises(KeyboardInterrupt):
            stopped(config, method, 4, how)
    else:
        assert stopped(config, method, 4).interrupted
    said: list[str] = []
    folder, result = train(config, method, resume=True, notify=said.append)
    whole, expected = train(dataclasses.replace(config, output=str(tmp_path / "whole")), method)
    step = 5 if how == "SIGTERM" else 3
    assert said[1:] == [f"resuming from {folder.checkpoints / f'checkpoint-{step}'}"]
    assert adapter_bytes(folder.path) == adapter_bytes(whole.path)
    assert result.after == expected.after
    assert result.before == expected.before
    assert result.cost.passes == expected.cost.passes
    assert losses(folder) == losses(whole)


@pytest.mark.parametrize(
    "method",
    [LoRA(), BiDoRA(r=2, unroll_steps=2), XGBLoRA(rounds=2, layers_per_round=None)],
    ids=lambda method: method.name,
)
def test_a_run_stopped_after_its_last_step_makes_no_other(
    config: TrainConfig, method: Method
) -> None:
    folder, whole = train(config, method)
    kept, logged = adapter_bytes(folder.path), losses(folder)
    folder.result.unlink()  # killed while it was evaluated
    shutil.rmtree(folder.adapter)
    _, result = train(config, method, resume=True)
    assert (result.cost.steps, result.cost.passes) == (8, whole.cost.passes)
    assert adapter_bytes(folder.path) == kept
    assert losses(folder) == logged
    assert result.after == whole.after


def test_a_run_stopped_before_its_first_checkpoint_starts_again(config: TrainConfig) -> None:
    with pytest.raises(KeyboardInterrupt):
        stopped(config, LoRA(), 1, "crash")
    said: list[str] = []
    _, result = train(config, LoRA(), resume=True, notify=said.append)
    assert said[1:] == ["no complete checkpoint: starting at step 0"]
    assert result.cost.steps == 8


def test_an_unfinished_run_is_not_written_over(config: TrainConfig) -> None:
    stopped(config, LoRA(r=2), 4)
    described = Path(str(config.output), "run.yaml").read_text("utf-8")
    with pytest.raises(MethodError, match="of an unfinished run; continue with --resume"):
        train(config, LoRA(r=3))
    assert Path(str(config.output), "run.yaml").read_text("utf-8") == described


def test_a_run_is_resumed_with_its_own_options(config: TrainConfig) -> None:
    stopped(config, LoRA(r=2), 4)
    described = Path(str(config.output), "run.yaml").read_text("utf-8")
    for other, method, message in (
        (dataclasses.replace(config, learning_rate=1e-2), LoRA(r=2), "learning_rate = 0.0005"),
        (dataclasses.replace(config, steps=20), LoRA(r=2), "steps = 8, this run 20"),
        (config, LoRA(r=3), "method.r = 2, this run 3"),
        (config, XGBLoRA(), "method"),
    ):
        with pytest.raises(MethodError, match=message):
            train(other, method, resume=True)
    assert Path(str(config.output), "run.yaml").read_text("utf-8") == described
    train(dataclasses.replace(config, eval_rows=3), LoRA(r=2), resume=True)


def test_a_run_is_resumed_with_its_own_optimizer(config: TrainConfig) -> None:
    stopped(config, LoRA(r=2), 4)
    other = dataclasses.replace(config, trainer={"optim": "sgd"})
    with pytest.raises(MethodError, match="state of the optimizer AdamW, and this run has SGD"):
        train(other, LoRA(r=2), resume=True)
    train(config, LoRA(r=2), resume=True)


def test_reported_rows_that_are_trained_on_are_counted(
    config: TrainConfig, rows_file: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in rows_file.read_text("utf-8").splitlines()]
    mine = write_rows(tmp_path / "mine.jsonl", [*labelled_rows(3, seed=9), rows[0]])
    said: list[str] = []
    job = set_up(
        dataclasses.replace(
            config, validation_share=None, validation_data=str(mine), test_data=str(rows_file)
        ),
        LoRA(r=2),
        notify=said.append,
    )
    job.release()
    assert said == [
        f"labels of the {len(rows)} training rows: high 35, low 25",
        "1 of the 4 validation rows have the input of a training row",
        f"{len(rows)} of the {len(rows)} test rows have the input of a training row",
        "not in the model's file, so trained whole and saved with the adapter: classifier",
    ]


def test_one_process_at_a_time_trains_into_a_folder(config: TrainConfig) -> None:
    folder = Path(str(config.output))
    held = FolderLock(folder)
    with pytest.raises(MethodError, match=r"process is training into .*run; choose another"):
        train(config, LoRA())
    held.release()
    assert not folder.exists()
    job = set_up(config, LoRA())
    for resume in (False, True):
        with pytest.raises(MethodError, match="another process is training"):
            train(config, LoRA(), resume=resume)
    job.release()
    train(config, LoRA(), resume=True)
    assert not (folder / ".lock").exists()


def test_a_run_is_resumed_with_its_own_data(config: TrainConfig, tmp_path: Path) -> None:
    other = write_rows(tmp_path / "held.jsonl", labelled_rows(20, seed=1))
    mine = write_rows(tmp_path / "mine.jsonl", labelled_rows(60))
    config = dataclasses.replace(config, data=str(mine), held_out_data=str(other))
    method = BiDoRA(r=2)
    stopped(config, method, 4)
    known = mine.read_text("utf-8")
    write_rows(mine, labelled_rows(100))
    with pytest.raises(MethodError, match=r"mine.jsonl has changed since .*: \d+ train rows then"):
        train(config, method, resume=True)
    mine.write_text(known.replace("w1 ", "w2 "), "utf-8")
    with pytest.raises(MethodError, match=r"with other contents; restore it, or start anew"):
        train(config, method, resume=True)
    mine.write_text(known, "utf-8")
    write_rows(other, labelled_rows(21, seed=1))
    with pytest.raises(MethodError, match=r"held.jsonl has .*: 20 held_out rows then, 21 now"):
        train(config, method, resume=True)
    write_rows(other, labelled_rows(20, seed=1))
    train(config, method, resume=True)


def test_seconds_are_those_of_all_processes(config: TrainConfig) -> None:
    stopped(config, LoRA(), 4)
    folder = RunFolder.read(str(config.output))
    assert json.loads(folder.clock.read_text("utf-8"))["seconds"] > 0
    folder.clock.write_text('{"seconds": 1000}', "utf-8")
    assert 1000 < train(config, LoRA(), resume=True)[1].seconds < 1900


def test_a_finished_run_is_left_alone(config: TrainConfig) -> None:
    train(config, LoRA())
    for resume in (False, True):
        with pytest.raises(MethodError, match="already holds a finished run"):
            train(config, LoRA(), resume=resume)


def test_there_must_be_a_run_to_resume(config: TrainConfig) -> None:
    with pytest.raises(MethodError, match="holds no run"):
        train(config, LoRA(), resume=True)
    assert not Path(str(config.output)).exists()


def test_a_failed_run_leaves_no_result(config: TrainConfig) -> None:
    with pytest.raises(TrainingError, match="loss at step"):
        train(dataclasses.replace(config, learning_rate=1e30, max_grad_norm=0), LoRA())
    folder = RunFolder.read(str(config.output))
    assert not folder.result.exists()
    assert not folder.adapter.exists()


def test_a_half_written_adapter_is_replaced(config: TrainConfig) -> None:
    leftover = Path(str(config.output), ".saving-adapter", "half")
    leftover.parent.mkdir(parents=True)
    leftover.touch()
    folder, _ = train(config, LoRA())
    assert not (folder.adapter / "half").exists()
    assert not leftover.parent.exists()


def test_train_rows_are_a_seeded_choice(config: TrainConfig, tmp_path: Path) -> None:
    some = dataclasses.replace(config, train_rows=9, test_data=config.data)
    folder, result = train(some, LoRA())
    assert result.train_rows == 9
    assert result.test.keys() == result.after.keys()
    assert json.loads(folder.result.read_text("utf-8"))["test"] == result.test
    with pytest.raises(
        MethodError, match="train_rows = 90: expected at most 47, the training rows"
    ):
        train(dataclasses.replace(some, train_rows=90, output=str(tmp_path / "o")), LoRA())


def test_a_second_split_of_ones_own(config: TrainConfig, tmp_path: Path) -> None:
    other = write_rows(tmp_path / "other.jsonl", labelled_rows(20, seed=1))
    with_own = dataclasses.replace(config, held_out_data=str(other))
    folder, _ = train(with_own, BiDoRA(r=2))
    without, _ = train(dataclasses.replace(config, output=str(tmp_path / "o")), BiDoRA(r=2))
    assert adapter_bytes(folder.path) != adapter_bytes(without.path)
    # rows set aside for tuning bring no test split of their own
    tuned = dataclasses.replace(with_own, tuning_share=0.3, output=str(tmp_path / "tuned"))
    assert set_up(tuned, BiDoRA(r=2)).trainer.run.own_held_out
    missing = dataclasses.replace(with_own, held_out_data="nowhere.jsonl", output=None)
    with pytest.raises(TaskError, match=r"nowhere\.jsonl: no such file"):
        train(missing, BiDoRA(r=2))


def test_a_head_of_another_task_is_replaced(
    config: TrainConfig, bert_folder: Path, tmp_path: Path
) -> None:
    saved = AutoModelForSequenceClassification.from_pretrained(bert_folder, num_labels=7)
    saved.save_pretrained(tmp_path / "seven")
    prepared = config.make_task().prepare(load_tokenizer(config.model))
    base = load_base(str(tmp_path / "seven"), prepared, seed=0)
    assert base.model.classifier.weight.shape[0] == 2
    fresh = load_base(config.model, prepared, seed=0)
    assert torch.equal(base.model.classifier.weight, fresh.model.classifier.weight)
    assert base.missing_keys == fresh.missing_keys == ["classifier.weight", "classifier.bias"]
    assert (base.replaces_head, fresh.replaces_head) == (True, False)


@pytest.mark.parametrize("method", [LoRA(r=2), BiDoRA(r=2)], ids=lambda method: method.name)
def test_a_pooler_that_is_in_no_file_is_in_the_adapter(
    method: Method, config: TrainConfig, bert_folder: Path, tmp_path: Path
) -> None:
    """The metric of a run is what plain PEFT gives on a base loaded under another seed."""
    masked = shutil.copytree(bert_folder, tmp_path / "masked")
    BertForMaskedLM.from_pretrained(bert_folder).save_pretrained(masked)
    said: list[str] = []
    config = dataclasses.replace(config, model=str(masked))
    folder, result = train(config, method, notify=said.append)
    assert said[-1] == (
        "not in the model's file, so trained whole and saved with the adapter: "
        "bert.pooler, classifier"
    )
    prepared = config.make_task().prepare(load_tokenizer(config.model))
    base = load_base(config.model, prepared, seed=99).model
    loaded = PeftModel.from_pretrained(base, folder.adapter)
    assert prepared.evaluate(loaded, batch_size=8) == pytest.approx(result.after)


def test_a_layer_that_is_in_no_file_is_refused_before_training(
    config: TrainConfig, bert_folder: Path, tmp_path: Path
) -> None:
    deeper = shutil.copytree(bert_folder, tmp_path / "deeper")
    values = json.loads((deeper / "config.json").read_text("utf-8"))
    (deeper / "config.json").write_text(json.dumps({**values, "num_hidden_layers": 3}))
    config = dataclasses.replace(config, model=str(deeper))
    with pytest.raises(MethodError, match=r"deeper' .* has no bert\.encoder\.layer\.2\."):
        train(config, LoRA(r=2))
    assert not Path(str(config.output)).exists()


def test_weights_that_are_not_of_the_config_are_refused(
    config: TrainConfig, bert_folder: Path, tmp_path: Path
) -> None:
    broken = shutil.copytree(bert_folder, tmp_path / "broken")
    prepared = config.make_task().prepare(load_tokenizer(config.model))
    values = json.loads((broken / "config.json").read_text("utf-8"))
    (broken / "config.json").write_text(json.dumps({**values, "max_position_embeddings": 9}))
    with pytest.raises(MethodError, match=r"position_embeddings.weight of shape .* asks for \(9, "):
        load_base(str(broken), prepared, seed=0)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(MethodError, match=r"cannot load the model .*: Error while deserializing"):
        load_base(str(broken), prepared, seed=0)


def test_files_in_the_folder_are_not_replaced(config: TrainConfig) -> None:
    precious = Path(str(config.output), "adapter", "precious")
    precious.parent.mkdir(parents=True)
    precious.touch()
    with pytest.raises(MethodError, match="adapter exists already, and would be replaced"):
        train(config, LoRA())
    assert precious.exists()


@pytest.mark.parametrize("seed", [0, 3])
def test_the_trainer_evaluates_the_rows_that_are_reported_on(
    config: TrainConfig, seed: int
) -> None:
    """Drawn, by class, and the same for every seed of a run."""
    said: list[str] = []
    few = dataclasses.replace(config, eval_rows=6, seed=seed)
    job = set_up(few, LoRA(r=2), notify=said.append)
    rows = job.prepared.draw_rows("validation", 6)
    shown = job.prepared.dataset("validation").select(rows)
    assert job.trainer.eval_dataset["input_ids"][:] == shown["input_ids"][:]
    assert job.predict("validation")["classes"].references == shown["labels"][:]
    assert sum("6 of the" in text and "drawn by class" in text for text in said) == 1
    job.release()


def test_notices_of_the_task_are_passed_on(llama_folder: Path, tmp_path: Path) -> None:
    rows = [{"prompt": "w1 " * 30, "answer": "w2 w3"}] * 4
    data = write_rows(tmp_path / "train.jsonl", rows)
    said: list[str] = []
    config = TrainConfig(
        model=str(llama_folder),
        data=str(data),
        validation_data=str(data),
        prompt_column="prompt",
        completion_column="answer",
        max_length=16,
        steps=1,
        output=str(tmp_path / "run"),
    )
    train(config, LoRA(), notify=said.append)
    assert any("max_length" in text or "16" in text for text in said)
