"""The storage of trials: damaged, lost, unreachable, and without passwords in messages."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import optuna
import pytest

from fake_trials import OPENED, FakeTrials, make_search, open_search, run_search
from rankwright.errors import MethodError
from rankwright.study.planning.plan import make_plan
from rankwright.study.tuning import storage
from rankwright.study.tuning.storage import hide_password, open_storage
from studies import ConfigOf

HEADER, PAGE_BYTES = 100, 4096
"""Of an SQLite file."""


def test_a_damaged_file_of_trials_says_what_to_delete(config_of: ConfigOf) -> None:
    """A file of another kind, an SQLite file with a damaged page, and a truncated one."""
    planned = make_plan(config_of(methods="lora", tune=2), "c")
    file = planned.folder.storage
    said = (
        re.escape(str(file))
        + r", the file of the trials, cannot be read \(.+\). Delete it, and the "
        f"folder {re.escape(str(file.parent / 'trials'))} if there is one: the trials .* are lost"
    )
    with open_storage(None, file):
        pass
    whole = file.read_bytes()
    for damaged in (
        b"no database " * 100,
        whole[:HEADER] + b"x" * (PAGE_BYTES - HEADER) + whole[PAGE_BYTES:],
        whole[: 2 * PAGE_BYTES],
    ):
        file.write_bytes(damaged)
        with pytest.raises(MethodError, match=said), open_storage(None, file):
            pass
    file.write_bytes(whole[:-PAGE_BYTES] + b"x" * PAGE_BYTES)
    file.unlink()
    assert len(run_search(open_search(planned, FakeTrials(float))).trials) == 2


def test_a_file_of_trials_that_is_damaged_while_it_is_used(config_of: ConfigOf) -> None:
    planned = make_plan(config_of(methods="lora", tune=2), "c")
    file = planned.folder.storage

    def damage(call: int) -> float:
        size = file.stat().st_size
        file.write_bytes(b"x" * size)
        return call

    spec = planned.config.parsed_methods[0]
    with (
        pytest.raises(MethodError, match=r"cannot be read \(file is not a database\)\. Delete it"),
        open_storage(None, file) as kept,
    ):
        run_search(make_search(kept, planned, FakeTrials(damage), spec))


def test_a_file_of_trials_that_cannot_be_opened_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "WAIT_SECONDS", 0)
    (tmp_path / "trials.db").mkdir()
    with (
        pytest.raises(MethodError, match=r"trials\.db, the file .* expected a file that can be wr"),
        open_storage(None, tmp_path / "trials.db"),
    ):
        pass


def test_a_lost_storage_is_one_message(
    config_of: ConfigOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = make_plan(config_of(methods="lora", tune=1), "c")

    def gone(*_args: object, **_named: object) -> None:
        raise optuna.exceptions.StorageInternalError("sent back") from OSError("server closed")

    monkeypatch.setattr(optuna.storages.RDBStorage, "set_trial_user_attr", gone)
    with (
        pytest.raises(
            MethodError, match=r"was lost \(server closed\); .* run the same command to continue"
        ),
        open_storage(None, planned.folder.storage) as kept,
    ):
        run_search(make_search(kept, planned, FakeTrials(float), planned.config.parsed_methods[0]))


def test_a_trial_survives_missed_heartbeats(
    config_of: ConfigOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example during a restart of the database."""
    monkeypatch.setattr(storage, "HEARTBEAT_SECONDS", 1)
    beats: list[bool] = []

    def flaky(self: object, trial_id: int) -> None:
        written = len(beats) >= 2  # neither the first one's nor that of Optuna's thread
        beats.append(written)
        if not written:
            raise optuna.exceptions.StorageInternalError("no connection")

    def waits(call: int) -> float:
        while True not in beats:
            time.sleep(0.01)
        return call

    monkeypatch.setattr(optuna.storages.RDBStorage, "record_heartbeat", flaky)
    record = run_search(
        open_search(make_plan(config_of(methods="lora", tune=1), "c"), FakeTrials(waits))
    )
    assert record.trials[0].state == "complete"
    assert beats[:3] == [False, False, True]


def test_a_storage_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(MethodError, match="storage = 'nosuch://': cannot be opened"):
        OPENED.enter_context(open_storage("nosuch://", tmp_path / "x.db"))


def test_a_missing_driver_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MethodError, match=r"pip install 'psycopg\[binary\]'") as raised:
        OPENED.enter_context(open_storage("postgresql://me:hush@host/s", tmp_path / "x.db"))
    assert "postgresql://me:***@host/s" in str(raised.value)
    assert "hush" not in str(raised.value)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("postgresql://host/db", "postgresql://host/db"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("postgresql+psycopg2://me:hush@host:5432/db", "postgresql+psycopg2://me:***@host:5432/db"),
        ("--storage=mysql://me:hu/s@h@host/db", "--storage=mysql://me:***@host/db"),
        ("postgresql:///db?user=me&password=hush&host=h", "postgresql:///db?user=me&password=***&host=h"),
        ("sqlite:////tmp/a.db", "sqlite:////tmp/a.db"),
        ("hf://datasets/a/b@main/c:d.csv", "hf://datasets/a/b@main/c:d.csv"),
    ],
)  # fmt: skip
def test_passwords_are_hidden(given: str, shown: str) -> None:
    assert hide_password(given) == shown
