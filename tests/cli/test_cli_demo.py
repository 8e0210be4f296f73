"""The demo deletes an earlier demo, and nothing else; `make demo` runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rankwright.cli import demo, main
from rankwright.job import RunFolder


def test_the_demo_leaves_another_run_alone(
    train: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--method", "lora", "--output", "mine", "--steps", "1") == 0
    assert main(["demo", "--output", "mine"]) == 1
    assert "mine holds a run that is not this demo" in capsys.readouterr().err
    mine = RunFolder.read("mine")
    assert mine.result.exists()
    demo._remove_earlier(mine, replace(mine.config, seed=1, output="elsewhere"))
    assert not Path("mine").exists()
