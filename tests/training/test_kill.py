"""Killed for real and resumed, a run ends with the bits of one that was never killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path

import pytest

import doomed
from doomed import Doom
from method_table import BATCH
from rankwright.training.checkpoint import newest_complete
from trainers import digest

DRAW = random.Random(2410)
CASES = {
    # 12 steps: search in 0 to 5, retraining in 6 to 11
    "search": ("bidora", {}, DRAW.randint(2, 5)),
    "retrain": ("bidora", {}, DRAW.randint(6, 11)),
    # 4 rounds of 3 steps: the middle one of the second, third or fourth
    "round": ("xgblora", {}, 3 * DRAW.randint(1, 3) + 1),
    # moments of both factors, and the overlap of each with its last value
    "pairs": ("lora_rite", {}, DRAW.randint(2, 11)),
}

Start = Callable[[Doom], int]


@pytest.fixture(scope="module")
def start() -> Start:
    """Runs in a fresh process and returns its exit code; negative for a signal.

    The server has imported everything and computed nothing, so a fork of it starts at once.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["doomed"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        forkserver.ensure_running()

    def run(doom: Doom) -> int:
        process = context.Process(target=doomed.train, args=(doom,))
        process.start()
        process.join(timeout=300)
        assert process.exitcode is not None, "still running after 300 s"
        return process.exitcode

    return run


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Method -> checksum of the adapter of a run that nobody disturbed, in this process."""
    known: dict[str, str] = {}

    def of(method: str) -> str:
        if method not in known:
            output = tmp_path_factory.mktemp(method)
            doomed.train(Doom(method, output, save_steps=100))
            known[method] = digest(output / "adapter")
        return known[method]

    return of


@pytest.mark.parametrize("case", CASES)
def test_killed_in_the_middle_of_a_step(
    case: str, start: Start, uninterrupted: Callable[[str], str], tmp_path: Path
) -> None:
    method, fields, step = CASES[case]
    assert start(Doom(method, tmp_path, fields, step=step)) == -signal.SIGKILL
    assert not (tmp_path / "adapter").exists()
    assert newest_complete(tmp_path) == tmp_path / f"checkpoint-{step // 2 * 2}"
    assert start(Doom(method, tmp_path, fields, resume=True)) == 0
    assert digest(tmp_path / "adapter") == uninterrupted(method)


def test_the_log_of_a_killed_run_is_of_the_whole_run(start: Start, tmp_path: Path) -> None:
    """Killed between a checkpoint and the next entry, whose loss is of five steps."""
    log = {"logging_steps": 5}
    straight = tmp_path / "straight"
    assert start(Doom("lora", straight, **log)) == 0
    assert start(Doom("lora", tmp_path, step=7, **log)) == -signal.SIGKILL
    assert start(Doom("lora", tmp_path, resume=True, **log)) == 0
    expected, found = (
        json.loads((folder / "log.json").read_text()) for folder in (straight, tmp_path)
    )
    assert [entry["step"] for entry in found] == [5, 10, 12]
    losses = [
        [entry.get("loss", entry.get("train_loss")) for entry in e] for e in (expected, found)
    ]
    assert losses[0] == losses[1]
    assert losses[1][-1] > 0
    summary = found[-1]
    rows = 12 * BATCH
    assert summary["train_steps_per_second"] == pytest.approx(12 / summary["train_runtime"], 0.01)
    assert summary["train_samples_per_second"] == pytest.approx(
        rows / summary["train_runtime"], rel=0.01
    )


@pytest.mark.parametrize("where", ["write_manifest", "publish"])
def test_killed_while_a_checkpoint_is_written(
    where: str, start: Start, uninterrupted: Callable[[str], str], tmp_path: Path
) -> None:
    assert start(Doom("xgblora", tmp_path, kill_before=where)) == -signal.SIGKILL
    assert (tmp_path / ".saving-4" / "checkpoint-4" / "adapter_model.safetensors").exists()
    assert newest_complete(tmp_path) == tmp_path / "checkpoint-2"
    assert start(Doom("xgblora", tmp_path, resume=True)) == 0
    assert not list(tmp_path.glob(".saving-*"))
    assert digest(tmp_path / "adapter") == uninterrupted("xgblora")


@pytest.mark.parametrize(("method", "step"), [("bidora", 3), ("xgblora", 7)])
def test_sigterm_saves_and_exits_cleanly(
    method: str,
    step: int,
    start: Start,
    uninterrupted: Callable[[str], str],
    tmp_path: Path,
) -> None:
    asked = Doom(method, tmp_path, step=step, signal=signal.SIGTERM, save_steps=100)
    assert start(asked) == 0
    assert (tmp_path / "interrupted").read_text() == "True"
    assert newest_complete(tmp_path) == tmp_path / f"checkpoint-{step + 1}"
    assert start(Doom(method, tmp_path, resume=True, save_steps=100)) == 0
    assert (tmp_path / "interrupted").read_text() == "False"
    assert digest(tmp_path / "adapter") == uninterrupted(method)
