"""The same command finishes a killed study, and repeats nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from rankwright.study.execution.protocol import PROGRESS, Progress
from rankwright.study.planning.config import StudyConfig
from rankwright.study.records.folder import StudyFolder
from rankwright.study.records.locks import lock_folder
from rankwright.study.records.records import RunRecord
from studies import ConfigOf, carry_out

STEPS = 90
"""Enough steps that a run does not end between two reports of its progress; each is logged."""
LONG = {
    "seeds": 1, "budget": f"{STEPS}-passes", "methods": "head_only,lora,full", "curve_points": 4,
}  # fmt: skip
PATIENCE_SECONDS = 500


def command(config: StudyConfig) -> list[str]:
    """Return the command line that runs the study in a process of its own."""
    options = {**config.options, **LONG, "model": config.model, "output": config.output}
    arguments = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, "-W", "ignore", "-m", "rankwright", "compare", *arguments]


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert process.poll() is None, "the study ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def step_of(folder: Path) -> int:
    """Return the last step that a run has reported."""
    file = folder / PROGRESS
    return Progress.load(file).step if file.exists() else 0


def test_a_killed_and_continued_study_equals_one_never_killed(
    config_of: ConfigOf, tmp_path: Path
) -> None:
    whole, _ = carry_out(config_of(**LONG, output=str(tmp_path / "whole")))
    config = config_of(**LONG)
    folder = StudyFolder(Path(str(config.output)))
    first, second = "train--head_only--0", "train--lora--0"

    # killed in the middle of its second run, when the first is finished
    threads = str(torch.get_num_threads())  # another number would sum in another order
    process = subprocess.Popen(command(config), env={**os.environ, "OMP_NUM_THREADS": threads})
    wait_for(lambda: step_of(folder.run(second)) > STEPS // 10, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = folder.record(first).stat().st_mtime_ns
    with lock_folder(folder.run(second)):  # its process has ended as well, with a checkpoint
        assert not folder.record(second).exists()
        assert list((folder.run(second) / "checkpoints").glob("checkpoint-*"))

    done, processes = carry_out(config)
    assert [name for _, name in processes.done] == [second, "train--full--0"]
    assert done.record(first).stat().st_mtime_ns == finished
    for record in done.records():
        expected = RunRecord.load(whole.record(record.name))
        assert record.after == expected.after
        assert record.before == expected.before
        assert record.curve == expected.curve
        assert record.cost.passes == expected.cost.passes
        assert record.cost.steps == expected.cost.steps == STEPS
        assert done.examples(record).predictions == whole.examples(expected).predictions
