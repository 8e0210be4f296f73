"""Files that are written whole or not at all."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from rankwright.job.files import replacing, write_json


def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
def test_what_json_does_not_have_is_null(tmp_path: Path, number: float) -> None:
    path = tmp_path / "values.json"
    write_json(path, {"a": [number, 1.0], "b": {"c": (number,)}})
    values = json.loads(path.read_text("utf-8"), parse_constant=pytest.fail)
    assert values == {"a": [None, 1.0], "b": {"c": [None]}}
