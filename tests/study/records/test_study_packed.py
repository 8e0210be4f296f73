"""A study packed into one table loses nothing, and can be continued."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import made_up
from rankwright.cli import main
from rankwright.errors import MethodError
from rankwright.study.execution.compare import compare
from rankwright.study.records.folder import StudyFolder
from rankwright.study.records.packed import read_packed, write_packed
from rankwright.study.report.page import render_html
from rankwright.study.report.results import compute_results
from studies import ConfigOf, InProcess, Recorder, carry_out

OF_0_1 = Path(__file__).parents[1] / "data" / "study-0.1"
"""A part of a study that version 0.1 left, without outcomes row by row."""


@pytest.fixture
def whole(tmp_path: Path) -> StudyFolder:
    """Two tasks, three methods, two seeds, trials, examples, a failure, and a run's folder."""
    folder = made_up.study(
        tmp_path / "whole", methods=("lora", "dora", "full"), tasks=("rte", "e2e"), seeds=(0, 1),
        rows=40, trials=3, unfinished=[("rte", "full", 1)],
    )  # fmt: skip
    (folder.path / "runs" / "rte--lora--0").mkdir(parents=True)
    (folder.path / "tuning" / "trials.db").write_bytes(b"of optuna")
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the contents of all files that are packed."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in files
        if file.name != "trials.db"
    }


def packed(folder: StudyFolder, output: Path) -> StudyFolder:
    folder.pack(output)
    return StudyFolder(output)


def test_packing_and_unpacking_preserves_every_byte(whole: StudyFolder, tmp_path: Path) -> None:
    before = files_of(whole.path)
    there = packed(whole, tmp_path / "packed")
    assert files_of(whole.path) == before
    assert sorted(files_of(there.path)) == ["records.parquet", "study.json"]
    kinds = {name.partition("/")[0] for name in before} - {"study.json"}
    assert kinds == {"records", "failures", "tuning"}
    assert there.unpack() == len(before) - 1
    assert files_of(there.path) == before
    assert there.unpack() == 0
    assert there.records() == whole.records()


def test_a_packed_study_reads_like_the_unpacked_one(whole: StudyFolder, tmp_path: Path) -> None:
    there = packed(whole, tmp_path / "packed")
    assert len(there.records()) == 11
    assert there.records() == whole.records()
    assert there.tunings() == whole.tunings()
    assert [failure.seed for failure in there.failures()] == [1]
    assert there.failures() == whole.failures()
    for record in whole.records():
        ours, theirs = there.examples(record), whole.examples(record)
        assert (ours.ids, ours.predictions, ours.labels) == (
            theirs.ids,
            theirs.predictions,
            theirs.labels,
        )
        assert ours.scores.tobytes() == theirs.scores.tobytes()
    assert render_html(compute_results(there)) == render_html(compute_results(whole))


def test_the_same_files_give_the_same_table(whole: StudyFolder, tmp_path: Path) -> None:
    table = whole.pack(tmp_path / "one").read_bytes()
    assert whole.pack(tmp_path / "two").read_bytes() == table
    assert whole.pack(tmp_path / "two").read_bytes() == table, "over an older table"
    assert StudyFolder(tmp_path / "one").pack(tmp_path / "three").read_bytes() == table
    assert len(table) < sum(map(len, files_of(whole.path).values())) / 3


def test_an_unpacked_file_is_read_before_the_packed_one(whole: StudyFolder, tmp_path: Path) -> None:
    there = packed(whole, tmp_path / "packed")
    run = whole.study.runs[0].name
    record = json.loads(whole.record(run).read_text("utf-8")) | {"device": "another"}
    there.record(run).parent.mkdir()
    there.record(run).write_text(json.dumps(record), "utf-8")
    assert [r.device for r in there.records()].count("another") == 1
    assert there.unpack() == len(files_of(whole.path)) - 2
    assert [r.device for r in there.records()].count("another") == 1


def test_interrupted_unpacking_loses_nothing(
    whole: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = packed(whole, tmp_path / "packed")
    written: list[Path] = []

    def write(file: Path, content: bytes) -> None:
        if len(written) == 5:
            raise KeyboardInterrupt
        written.append(file)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)

    with monkeypatch.context() as patch:
        patch.setattr("rankwright.study.records.folder.write_bytes", write)
        with pytest.raises(KeyboardInterrupt):
            there.unpack()
    again = StudyFolder(there.path)
    assert again.records() == whole.records()
    again.unpack()
    assert files_of(there.path) == files_of(whole.path)


def test_continuing_a_packed_study_unpacks_it(config_of: ConfigOf, tmp_path: Path) -> None:
    loose, _ = carry_out(config_of(methods="lora"))
    before = files_of(loose.path / "records")
    loose.pack(tmp_path / "kept")
    shutil.rmtree(loose.path)
    shutil.copytree(tmp_path / "kept", loose.path)
    processes, recorder = InProcess(), Recorder()
    folder = compare(config_of(methods="lora", seeds=2), "again", processes, recorder)
    assert [name for _, name in processes.done] == ["train--lora--1"]
    assert "2 files of records.parquet unpacked, to continue the study" in recorder.lines
    assert not folder.packed.exists()
    assert [record.seed for record in folder.records()] == [0, 1]
    after = files_of(folder.path / "records")
    assert {name: after[name] for name in before} == before


def test_a_refused_command_does_not_change_a_packed_study(
    config_of: ConfigOf, tmp_path: Path
) -> None:
    folder, _ = carry_out(config_of(methods="lora"))
    folder.pack(tmp_path / "kept")
    before = files_of(tmp_path / "kept")
    config = config_of(methods="lora", budget="12-passes", output=str(tmp_path / "kept"))
    with pytest.raises(MethodError, match="the existing study has"):
        compare(config, "another", InProcess(), Recorder())
    kept = files_of(tmp_path / "kept")
    assert {name: kept[name] for name in before} == before


def damaged(table: Path) -> None:
    content = bytearray(table.read_bytes())
    content[len(content) // 2] ^= 1
    table.write_bytes(content)


def cut(table: Path) -> None:
    table.write_bytes(table.read_bytes()[:100])


def of_other_columns(table: Path) -> None:
    pq.write_table(pa.table({"x": [1.0]}), table)


def outside(table: Path) -> None:
    write_packed(table, {"records/../../x.json": b"{}"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damaged, "is not a table of a study's records"),
        (cut, "is not a table of a study's records"),
        (of_other_columns, "is not a table of a study's records"),
        (outside, r"has a row with the path 'records/../../x.json'; expected JSON and parquet"),
    ],
)
def test_a_damaged_table_is_named(
    whole: StudyFolder, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    there = packed(whole, tmp_path / "packed")
    damage(there.packed)
    with pytest.raises(MethodError, match=message) as raised:
        there.records()
    assert str(there.packed) in str(raised.value)
    with pytest.raises(MethodError, match=message):
        there.unpack()
    assert sorted(path.name for path in there.path.iterdir()) == ["records.parquet", "study.json"]


def changed(files: Mapping[str, bytes], start: str) -> dict[str, bytes]:
    return {name: b"{}" if name.startswith(start) else data for name, data in files.items()}


def test_a_packed_record_of_another_form_is_named(whole: StudyFolder, tmp_path: Path) -> None:
    there = packed(whole, tmp_path / "packed")
    write_packed(there.packed, changed(read_packed(there.packed), "records/rte--lora--0.json"))
    named = r"records/rte--lora--0\.json in .*records\.parquet is not a RunRecord"
    with pytest.raises(MethodError, match=named):
        there.records()


def test_packing_on_the_command_line(
    whole: StudyFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = whole.path.parent / "kept"
    arguments = ["report", str(whole.path), "--format", "packed"]
    assert main([*arguments, "--output", str(kept)]) == 0
    assert capsys.readouterr().out == f"records in one table: {kept / 'records.parquet'}\n"
    assert main(arguments) == 0
    assert (whole.path / "packed" / "records.parquet").is_file()
    assert main(["report", str(kept), "--format", "markdown"]) == 0
    assert main(["report", str(whole.path), "--format", "markdown"]) == 0
    pages = [(folder / "report.md").read_text("utf-8") for folder in (kept, whole.path)]
    assert pages[0] == pages[1]
    capsys.readouterr()
    assert main([*arguments, "--output", str(whole.path)]) == 1
    said = capsys.readouterr().err
    assert "exists, and would be read instead of the packed file" in said
    assert not whole.packed.exists()
    assert main([*arguments, "--output", str(kept)]) == 0, "over what was packed before"


@pytest.mark.parametrize("form", ["packed", "peft"])
def test_an_output_that_is_a_file_is_refused(
    form: str, whole: StudyFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("mine", "utf-8")
    assert main(["report", str(whole.path), "--format", form, "--output", str(file)]) == 1
    assert f"cannot write to {file}: {file} is a file, not a folder" in capsys.readouterr().err
    assert file.read_text("utf-8") == "mine"


def test_an_unpacked_study_of_version_0_1_is_read(tmp_path: Path) -> None:
    folder = StudyFolder(shutil.copytree(OF_0_1, tmp_path / "study"))
    assert {record.name: record.value for record in folder.records()} == {
        "stsb-500--dora--0": 0.8757112156432008,
        "stsb-500--half--0": 0.8820897451151435,
        "stsb-500--dora--1": 0.8692402070274597,
        "stsb-500--half--1": 0.8692562684879959,
    }
    assert [tuning.label for tuning in folder.tunings()] == ["dora", "half"]
    assert main(["report", str(folder.path)]) == 0
    assert render_html(compute_results(packed(folder, tmp_path / "packed"))) == render_html(
        compute_results(folder)
    )
