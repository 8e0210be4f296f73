"""The processes of a study: restarted when they die, asked to stop, one device each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from rankwright.study.execution.processes import Exit, Processes, error_message
from rankwright.study.execution.protocol import ERROR, ErrorReport, Progress


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shell script in place of Python, which a test writes. `$3` is the run's folder."""
    script = tmp_path / "worker.sh"
    script.touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    return script


def script(path: Path, text: str) -> None:
    path.write_text(f'#!/bin/sh\nfolder=$3\necho started >> "$folder/calls"\n{text}\n', "utf-8")


def calls(folder: Path) -> int:
    return len((folder / "calls").read_text("utf-8").splitlines())


def test_a_process_that_dies_is_started_again(worker: Path, tmp_path: Path) -> None:
    script(worker, '[ $(wc -l < "$folder/calls") -lt 3 ] && kill -9 $$; exit 0')
    assert Processes(1).run(tmp_path) is Exit.DONE
    assert calls(tmp_path) == 3


def test_a_process_that_always_dies_is_given_up(worker: Path, tmp_path: Path) -> None:
    script(worker, "echo out of memory; kill -9 $$")
    end = Processes(1).run(tmp_path)
    assert end is Exit.DIED
    assert calls(tmp_path) == 3
    assert error_message(tmp_path, end).endswith("log.txt: out of memory")


def test_a_reported_error_is_not_tried_again(worker: Path, tmp_path: Path) -> None:
    script(worker, "exit 1")
    ErrorReport(message="the loss is NaN").save(tmp_path / ERROR)
    end = Processes(1).run(tmp_path)
    assert end is Exit.FAILED
    assert calls(tmp_path) == 1
    assert error_message(tmp_path, end) == "the loss is NaN"


def test_stopping_lets_a_process_save(worker: Path, tmp_path: Path) -> None:
    script(worker, "trap 'touch $folder/saved; exit 143' TERM\nwhile :; do sleep 0.05; done")
    seen: list[Progress | None] = []
    processes = Processes(1, lambda _folder, progress: seen.append(progress))
    Progress(step=3, steps=9, phase="train", seconds=1.0).save(tmp_path / "progress.json")

    def stop() -> None:
        while not (tmp_path / "calls").exists() or not seen:
            time.sleep(0.01)
        processes.stop()

    thread = threading.Thread(target=stop)
    thread.start()
    assert processes.run(tmp_path) is Exit.STOPPED
    thread.join()
    assert (tmp_path / "saved").exists()
    assert seen[0] is not None
    assert (seen[0].step, seen[-1]) == (3, None)
    assert processes.run(tmp_path) is Exit.STOPPED  # and nothing is started any more
    assert calls(tmp_path) == 1


def test_a_process_has_a_device_and_its_share_of_the_processors(
    worker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    script(worker, 'echo "$CUDA_VISIBLE_DEVICES $OMP_NUM_THREADS" > "$folder/has"; sleep 0.5')
    processes, folders = Processes(4), [tmp_path / str(number) for number in range(4)]
    threads = [threading.Thread(target=processes.run, args=(folder,)) for folder in folders]
    for folder, thread in zip(folders, threads, strict=True):
        folder.mkdir()
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted((folder / "has").read_text("utf-8") for folder in folders) == [
        "0 2\n", "0 2\n", "1 2\n", "1 2\n",
    ]  # fmt: skip
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    Processes(1).run(folders[0])
    assert (folders[0] / "has").read_text("utf-8") == "5 3\n"


PARENT = """
import subprocess, sys, time
command = [sys.executable, "-m", "rankwright.worker", "FOLDER", "0"]
subprocess.Popen(command, stdin=subprocess.PIPE)
time.sleep(600)
"""


def test_a_process_that_still_imports_ends_with_its_parent(tmp_path: Path) -> None:
    """The import of torch is replaced by one that takes ten minutes."""
    slow = "import time\nprint('importing', flush=True)\ntime.sleep(600)\n"
    (tmp_path / "torch.py").write_text(slow, "utf-8")
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    with parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"importing\n"
        parent.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        assert parent.stdout.read() == b""  # both have ended: nobody else can write there
        assert time.monotonic() - killed < 30
