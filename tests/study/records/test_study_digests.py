"""`rankwright report` verifies the files of the runs, and names one that differs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rankwright.cli import main
from studies import ConfigOf, carry_out


def test_a_file_that_differs_is_named(
    config_of: ConfigOf, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = carry_out(config_of(methods="lora"))
    assert main(["report", str(folder.path)]) == 0
    name = folder.study.runs[0].name
    for number, file in enumerate((
        f"records/{name}.json",
        f"records/{name}.parquet",
        f"runs/{name}/result.json",
        f"runs/{name}/adapter/adapter_model.safetensors",
    )):  # fmt: skip
        study = shutil.copytree(folder.path, tmp_path / str(number))
        content = bytearray((study / file).read_bytes())
        content[-4] ^= 1
        (study / file).write_bytes(content)
        capsys.readouterr()
        assert main(["report", str(study)]) == 1
        said = capsys.readouterr().err
        assert f"{study / file} is not what was written" in said
        assert "--edited" in said


def test_edited_records_and_records_without_runs_are_read_on_request(
    config_of: ConfigOf,
) -> None:
    folder, _ = carry_out(config_of(methods="lora"))
    record = folder.record(folder.study.runs[0].name)
    content = json.loads(record.read_text("utf-8"))
    record.write_text(json.dumps({**content, "device": "another"}), "utf-8")
    assert main(["report", str(folder.path)]) == 1
    assert main(["report", str(folder.path), "--edited"]) == 0
    shutil.rmtree(folder.path / "runs")  # with their digests: as studies are published
    assert main(["report", str(folder.path)]) == 0
