"""What answers at once, and what every command says about itself."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys

import pytest

from rankwright.cli import COMMANDS, PIPE_CLOSED, main


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"rankwright {importlib.metadata.version('rankwright')}\n"


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {command} " in shown for command in COMMANDS)


def test_a_reader_that_has_had_enough_sees_no_traceback() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "rankwright", "--help"]
    ended = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (PIPE_CLOSED, b"")


def test_an_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    shown = capsys.readouterr()
    assert "unknown command 'trian'" in shown.err
    assert not shown.out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"usage: rankwright {command}" in shown
    assert "<class" not in shown


def test_help_of_train_has_the_options_of_the_method(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--method", "xgblora", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--method.layers_per_round" in shown
    assert "--method NAME" in shown
    assert "--text-column" in shown
