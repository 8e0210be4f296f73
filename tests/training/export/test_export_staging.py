"""One export at a time writes to a folder; what a killed one has left is cleared away."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from rankwright.locks import unique_name
from rankwright.training.checkpoint import publish
from rankwright.training.export import ExportError
from rankwright.training.export.staging import staged


def write(folder: Path, content: str) -> None:
    (folder / "adapter_config.json").write_text(content)


@pytest.mark.parametrize("overwrite", [True, False])
def test_of_two_at_the_same_time_one_is_refused(tmp_path: Path, overwrite: bool) -> None:
    target = tmp_path / "out"
    outcomes: list[str] = []
    both, written = threading.Barrier(2), threading.Barrier(2)

    def export(content: str) -> None:
        both.wait()
        try:
            with staged(target, overwrite) as folder:
                written.wait()
                write(folder, content)
            outcomes.append(content)
        except ExportError as error:
            outcomes.append(str(error))
            written.wait()

    threads = [threading.Thread(target=export, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (refused,) = (text for text in outcomes if len(text) > 1)
    (done,) = (text for text in outcomes if len(text) == 1)
    assert refused.startswith(f"another process is writing {target}; wait for it to end")
    assert (target / "adapter_config.json").read_text() == done
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_later_of_two_finds_what_the_earlier_wrote(tmp_path: Path) -> None:
    with staged(tmp_path / "out", False) as folder:
        write(folder, "first")
    with pytest.raises(ExportError, match="is not empty"), staged(tmp_path / "out", False):
        pytest.fail("not reached")
    with staged(tmp_path / "out", True) as folder:
        write(folder, "second")
    assert (tmp_path / "out" / "adapter_config.json").read_text() == "second"


def test_what_is_there_at_the_end_is_not_replaced(tmp_path: Path) -> None:
    """Where no lock keeps another process off."""

    def meanwhile() -> None:
        with staged(tmp_path / "out", False) as folder:
            write(folder, "mine")
            (tmp_path / "out").mkdir()
            write(tmp_path / "out", "another's")

    with pytest.raises(ExportError, match="is not empty"):
        meanwhile()
    assert (tmp_path / "out" / "adapter_config.json").read_text() == "another's"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_leftovers_of_this_target_are_deleted_and_others_stay(tmp_path: Path) -> None:
    for name in (f".out.writing-{unique_name()}", f".other.writing-{unique_name()}"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, "half")
    (tmp_path / ".out.lock").touch()  # of the killed process
    with staged(tmp_path / "out", False) as folder:
        write(folder, "whole")
    assert sorted(path.name.split("-")[0] for path in tmp_path.iterdir()) == [
        ".other.writing",
        "out",
    ]


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_that_was_set_aside_is_put_back(tmp_path: Path, there: bool) -> None:
    """Killed while it replaced an older export, before or after the new one had its name."""
    (tmp_path / ".saving-old-out").mkdir()
    write(tmp_path / ".saving-old-out", "old")
    if there:
        (tmp_path / "out").mkdir()
        write(tmp_path / "out", "new")
    with pytest.raises(ZeroDivisionError), staged(tmp_path / "out", True):
        _ = 1 / 0
    assert (tmp_path / "out" / "adapter_config.json").read_text() == ("new" if there else "old")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_publishing_over_a_leftover(tmp_path: Path) -> None:
    for name in ("new", "out", ".saving-old-out"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, name)
    publish(tmp_path / "new", tmp_path / "out")
    assert (tmp_path / "out" / "adapter_config.json").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_target_under_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(ExportError, match="name another folder"),
        staged(tmp_path / "file/out", False),
    ):
        pytest.fail("not reached")
