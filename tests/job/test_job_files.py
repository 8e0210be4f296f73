"""Files that are written whole or not at all."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rankwright.job.files import replacing, write_json


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[bytes] = []
    monkeypatch.setattr(os, "fsync", lambda file: flushed.append(os.pread(file, 99, 0)))
    path = tmp_path / "new" / "folder" / "values.json"
    write_json(path, {"a": [1.5, None]})
    assert path.read_text("utf-8") == '{\n "a": [\n  1.5,\n  null\n ]\n}\n'
    assert flushed == [path.read_bytes()]  # on disk before it takes the name
    with pytest.raises(TypeError), replacing(path) as temporary:
        temporary.write_text(0)  # type: ignore[arg-type]
    assert path.read_bytes() == flushed[0]
    assert [file.name for file in path.parent.iterdir()] == ["values.json"]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_null(tmp_path: Path, number: float) -> None:
    path = tmp_path / "values.json"
    write_json(path, {"a": [number, 1.0], "b": {"c": (number,)}})
    values = json.loads(path.read_text("utf-8"), parse_constant=pytest.fail)
    assert values == {"a": [None, 1.0], "b": {"c": [None]}}


def killed_in(code: str) -> None:
    """Run Python code in a process of its own that kills itself in it."""
    code = (
        f"import os, signal\nfrom pathlib import Path\n{code}\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_the_next_writer_deletes_the_file_of_a_killed_one(tmp_path: Path) -> None:
    path, other = tmp_path / "data[1].json", tmp_path / "other.json"
    for each in (path, other):
        killed_in(
            "from rankwright.job.files import replacing\n"
            f"with replacing(Path({str(each)!r})) as file:\n"
            "    file.write_text('half')"
        )
    assert len(list(tmp_path.iterdir())) == 2
    with replacing(path) as living:
        living.write_text("mine")
        assert len(list(tmp_path.iterdir())) == 2  # the other file's, and this
        write_json(path, [1])
        assert living.exists()
    assert path.read_text("utf-8") == "mine"
    write_json(other, [])
    assert {file.name for file in tmp_path.iterdir()} == {path.name, other.name}
