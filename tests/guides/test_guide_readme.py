"""README and guides: tables, links, commands and configurations are true."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

import rankwright.methods  # noqa: F401  (registers the methods)
from rankwright.cli import COMMANDS, main
from rankwright.cli.options import parse_train
from rankwright.core.method_registry import available_methods
from rankwright.job import TrainConfig, build_method, combinations
from rankwright.tasks import load_task

ROOT = Path(__file__).resolve().parents[2]
GUIDES = ROOT / "docs" / "guides"
PAGES = [ROOT / "README.md", *sorted(GUIDES.glob("*.md"))]
CONFIGS = sorted((ROOT / "examples" / "configs").glob("*.yaml"))


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def cells(heading: str) -> list[list[str]]:
    """The rows of README's table whose first column is called `heading`."""
    lines = text(ROOT / "README.md").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def commands(page: Path) -> list[list[str]]:
    """Every `rankwright` command of a page's shell blocks."""
    blocks = re.findall(r"```bash\n(.*?)```", text(page), flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    split = (shlex.split(line, comments=True) for line in lines)
    return [words for words in split if words[:1] == ["rankwright"]]


def test_the_table_of_methods_is_the_registry() -> None:
    there = {row[0]: row for row in cells("method")}
    titles = {cls.__name__: name for name, cls in available_methods().items()}
    assert sorted(there) == sorted(titles), "README's first table has the methods that are there"
    for title, name in titles.items():
        assert f"(docs/methods/{name}.md)" in there[title][-1]


def test_nothing_that_is_there_is_called_planned() -> None:
    planned = [name for row in cells("planned") for name in row[0].split(", ")]
    assert len(planned) == len(set(planned))
    assert not {cls.__name__ for cls in available_methods().values()} & {
        name.replace("-", "") for name in planned
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_resolve(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s#]+)[^)]*\)", text(page))
    files = [target for target in targets if "://" not in target]
    assert not [file for file in files if not (page.parent / file).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_parse(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(GUIDES)
    # tests/job/test_combinations.py probes every method; here the command has to run
    monkeypatch.setattr(
        combinations, "available_methods", lambda: {"full": available_methods()["full"]}
    )
    described = {"model": "minilm", "task": "stdlib-docs", "method": "bidora"}
    for words in commands(page):
        arguments = words[1:]
        assert arguments[0] in COMMANDS, words
        if arguments[0] == "train":
            for path in re.findall(r"\S+\.yaml", " ".join(arguments)):
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                Path(path).write_text(yaml.safe_dump(described))
            values, _ = parse_train(arguments[1:])
            build_method(values.pop("method"), values.pop("parts"))
            TrainConfig(**values)
        elif arguments[0] in ("methods", "parts"):
            assert main(arguments) == 0
    capsys.readouterr()


def test_every_command_and_option_of_a_run_is_in_the_guide() -> None:
    guide = text(GUIDES / "cli.md")
    assert all(f"\n## {command}\n" in guide for command in COMMANDS)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_ready_configurations_parse(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKWRIGHT_DATA", "data")
    monkeypatch.chdir(ROOT)
    header = text(path).partition("\nmodel:")[0]
    assert f"rankwright train --config {path.relative_to(ROOT)}" in header
    values, _ = parse_train(["--config", str(path)])
    build_method(values.pop("method"), values.pop("parts"))
    TrainConfig(**values).make_task()
    if "examples/tasks" in (values["task"] or ""):
        assert load_task(ROOT / values["task"]).name == Path(values["task"]).stem
