"""Every block of docs/guides/combining.md runs, in the order of the page."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
import yaml
from peft import PeftModel

from models import rows_for, tiny_bert
from rankwright.cli.options import parse_train
from rankwright.job import build_method
from rankwright.training.progress_bars import no_progress_bars
from trainers import arguments

PAGE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "combining.md"
TEXT = PAGE.read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def test_every_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = tiny_bert()
    names = {
        "model": model,
        "args": arguments(tmp_path / "out"),
        "train_rows": rows_for(model, 16),
    }
    with warnings.catch_warnings(), no_progress_bars():
        warnings.simplefilter("ignore")
        for number, block in enumerate(blocks("python")):
            exec(compile(block, f"{PAGE.name}, block {number}", "exec"), names)
    PeftModel.from_pretrained(tiny_bert(), tmp_path / "combined")


def test_the_file_and_the_command_line_say_the_same(tmp_path: Path) -> None:
    (described,) = blocks("yaml")
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({"model": "m", "task": "t", **yaml.safe_load(described)}))
    (command,) = [b for b in blocks("bash") if "train" in b]
    words = command.replace("\\\n", " ").partition("rankwright train ")[2].split()
    labels = []
    for arguments_ in (["--config", str(path)], words):
        values, _ = parse_train(arguments_)
        labels.append(build_method(values["method"], values["parts"]).label)
    assert labels == ["lora+olora+flat+chain"] * 2
