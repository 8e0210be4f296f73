"""Every block of Python in docs/compare.md and docs/report.md runs on a study."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import made_up

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize("name", ["compare.md", "report.md"])
def test_every_block_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (DOCS / name).read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert blocks
    made_up.study(
        tmp_path / "studies" / "stdlib-docs", methods=("lora", "dora"), tasks=("rte",), seeds=(0,),
        rows=20, trials=2,
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for number, block in enumerate(blocks):
        exec(compile(block, f"{name}, block {number}", "exec"), {})
