"""Every example runs as it stands, offline, and what it leaves is a plain PEFT adapter."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
from peft import PeftConfig
from safetensors.torch import load_file

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"
EXPECTED = {
    "pytorch_loop": ("DORA", ["search", "retrain"]),
    "accelerate_loop": ("LORA", ["round 1/3", "round 2/3", "round 3/3"]),
    "optimizer": ("LORA", ["loss"]),
    "trainer": ("DORA", ["Cost(trainable_parameters="]),
    "sft": ("LORA", []),
}


def test_every_example_is_run() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(EXPECTED)


@pytest.mark.parametrize("example", EXPECTED)
def test_an_example(
    example: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kind, said = EXPECTED[example]
    output = tmp_path / "adapter"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [example, "--steps", "6", "--output", str(output)])
    runpy.run_path(str(EXAMPLES / f"{example}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert all(text in printed for text in [*said, "a plain PEFT adapter is in"])
    assert PeftConfig.from_pretrained(output).use_dora == (kind == "DORA")
    weights = load_file(output / "adapter_model.safetensors")
    assert any(tensor.any() for name, tensor in weights.items() if "lora_B" in name)
