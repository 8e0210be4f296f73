"""A finished run is what it wrote, or a command names the file that is not."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaForCausalLM

from models import tiny_llama
from rankwright.cli import main
from rankwright.core.export import Export
from rankwright.core.method_registry import available_methods
from rankwright.errors import MethodError
from rankwright.job import RunFolder, load_adapted
from rankwright.job.adapter import read_adapter
from rankwright.job.combinations import small
from rankwright.peft_layers.adapter_file import save_adapter
from rankwright.training.manifest import MANIFEST

COMMANDS = (["eval"], ["export", "--as", "merged"], ["plot"])
WEIGHTS = "adapter/adapter_model.safetensors"
Damage = Callable[[Path], None]
Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def finished(bert_folder: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of LoRA."""
    folder = tmp_path_factory.mktemp("finished") / "lora"
    options = ["--text-column", "sentence", "--label-column", "topic", "--validation-share", "0.2"]
    names = ["--model", str(bert_folder), "--data", str(rows_file), "--output", str(folder)]
    assert main(["train", "--method", "lora", *names, *options, "--steps", "2"]) == 0
    shutil.rmtree(folder / "checkpoints")
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(finished, tmp_path / "run")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" ")


def set_value(name: str, value: object) -> Damage:
    def damage(path: Path) -> None:
        content = json.loads(path.read_text("utf-8"))
        content[name] = value
        path.write_text(json.dumps(content), "utf-8")

    return damage


def on_tensors(change: Callable[[Tensors], object]) -> Damage:
    """The weights with their tensors changed in place."""

    def damage(path: Path) -> None:
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, metadata={"format": "pt"})

    return damage


def first(tensors: Tensors) -> str:
    return min(name for name in tensors if "lora_A" in name)


def lose_a_tensor(tensors: Tensors) -> None:
    del tensors[first(tensors)]


def add_a_tensor(tensors: Tensors) -> None:
    tensors["base_model.model.nowhere.lora_A.weight"] = torch.zeros(2, 2)


def reshape_a_tensor(tensors: Tensors) -> None:
    tensors[first(tensors)] = tensors[first(tensors)].T.contiguous()


def value_in(number: float) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        tensors[first(tensors)][0, 0] = number

    return change


def said_by(command: list[str], run: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The message of a command that has to fail and to print nothing else."""
    assert main([command[0], str(run), *command[1:]]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.strip().splitlines()) == 1, shown.err
    return shown.err


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    ("file", "damage"),
    [
        (WEIGHTS, flip_a_bit),
        (WEIGHTS, truncate),
        (WEIGHTS, on_tensors(add_a_tensor)),
        (WEIGHTS, on_tensors(lose_a_tensor)),
        (WEIGHTS, on_tensors(dict.clear)),
        ("adapter/adapter_config.json", set_value("lora_alpha", 999)),
        ("adapter/tokenizer.json", append),
        ("head.json", set_value("auto_class", "AutoModelForTokenClassification")),
        ("data.json", append),
        ("history.json", append),
        ("result.json", set_value("after", {"accuracy": 1.0})),
        ("run.yaml", append),
        (WEIGHTS, Path.unlink),
        ("history.json", Path.unlink),
    ],
)
def test_a_file_that_differs_is_named(
    run: Path,
    file: str,
    damage: Damage,
    command: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(run / file)
    said = said_by(command, run, capsys)
    assert file in said
    assert "--edited" in said


def test_edited_files_are_read_with_the_option(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_value("lora_alpha", 999)(run / "adapter" / "adapter_config.json")
    append(run / "history.json")
    for command, *options in COMMANDS:
        assert main([command, str(run), *options]) == 1
        assert main([command, str(run), *options, "--edited"]) == 0, capsys.readouterr().err


def test_the_card_of_an_adapter_and_files_beside_it_are_the_users(run: Path) -> None:
    (run / "adapter" / "README.md").write_text("my adapter")
    (run / "notes.txt").write_text("mine")
    (run / "adapter" / "runs.txt").write_text("mine")
    assert main(["eval", str(run)]) == 0


@pytest.mark.parametrize("command", [["eval"], ["export", "--as", "merged"]], ids=" ".join)
@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (on_tensors(lose_a_tensor), "lacks base_model.model"),
        (on_tensors(dict.clear), "it lacks base_model.model.classifier.weight"),
        (on_tensors(add_a_tensor), "has base_model.model.nowhere.lora_A.weight that the adapter"),
        (on_tensors(reshape_a_tensor), "size mismatch"),
        (on_tensors(value_in(torch.nan)), "lora_A.weight holds NaN or infinite values"),
        (on_tensors(value_in(torch.inf)), "lora_A.weight holds NaN or infinite values"),
        (truncate, "cannot read"),
    ],
)
@pytest.mark.parametrize("old", [True, False], ids=["no digests", "--edited"])
def test_an_adapter_that_is_not_whole_is_refused_in_any_case(
    run: Path,
    damage: Damage,
    problem: str,
    command: list[str],
    old: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(run / WEIGHTS)
    if old:  # as version 0.1 left a run
        (run / MANIFEST).unlink()
    said = said_by(command if old else [*command, "--edited"], run, capsys)
    assert problem in said
    assert "adapter" in said
    assert not (run / "merged-export").exists()


def test_a_run_of_version_0_1_can_be_read(run: Path) -> None:
    (run / MANIFEST).unlink()
    for command, *options in COMMANDS:
        assert main([command, str(run), *options]) == 0


def test_a_run_that_was_killed_before_its_result_names_the_command_to_resume(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "result.json").unlink()
    said = said_by(["eval"], run, capsys)
    assert "result.json: the run is not finished. Continue it with: rankwright train" in said


def test_in_python_reading_a_run_checks_it(run: Path) -> None:
    set_value("lora_alpha", 999)(run / "adapter" / "adapter_config.json")
    with pytest.raises(MethodError, match=r"adapter_config\.json is not what was written"):
        RunFolder.read(run)
    model = load_adapted(RunFolder.read(run, check=False))
    assert model.active_peft_config.lora_alpha == 999


def test_a_damaged_list_of_digests_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("[]", "null", "", "{", '{"files": []}', '{"files": {"head.json": 3}}'):
        (run / MANIFEST).write_text(text)
        assert MANIFEST in said_by(["eval"], run, capsys)


@pytest.mark.parametrize("name", sorted(available_methods()))
def test_every_methods_adapter_is_whole(name: str, tmp_path: Path) -> None:
    """The names in the file are those of the loaded model, whatever layers a method has."""
    base = tiny_llama()
    model = small(available_methods()[name]).apply(copy.deepcopy(base))
    save_adapter(model, tmp_path)
    fresh = LlamaForCausalLM(base.config)
    fresh.load_state_dict(base.state_dict())
    loaded = read_adapter(fresh, tmp_path, Export())
    tokens = torch.arange(6)[None]
    assert torch.allclose(loaded.eval()(tokens).logits, base.eval()(tokens).logits, atol=1e-5)


def test_adapted_embeddings_are_stored_beside_their_factors(tmp_path: Path) -> None:
    base = tiny_llama()
    method = available_methods()["lora"](r=2, target_modules=["embed_tokens", "q_proj"])
    model = method.apply(copy.deepcopy(base))
    model.save_pretrained(tmp_path, save_embedding_layers=True)
    assert read_adapter(copy.deepcopy(base), tmp_path, Export()).active_peft_config.r == 2


def test_a_run_that_version_0_1_left_is_evaluated_and_exported(
    bert_folder: Path,
    rows_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = shutil.copytree(Path(__file__).parent / "data" / "run-0.1", tmp_path / "run")
    monkeypatch.chdir(tmp_path)  # it names its model and its data from here
    Path("bert").symlink_to(bert_folder)
    Path("train.jsonl").symlink_to(rows_file)
    assert main(["eval", "run"]) == 0
    result = json.loads((run / "result.json").read_text("utf-8"))
    assert json.loads(capsys.readouterr().out) == result["after"] != result["before"]
    assert main(["export", "run", "--as", "merged"]) == 0
    assert not (run / MANIFEST).exists()
