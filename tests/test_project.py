"""What a reader or an installer relies on and no other test looks at."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import peft
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import rankwright
import rankwright.methods
import rankwright.training
from rankwright.core import method_registry

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "rankwright"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
METHODS = sorted(path.stem for path in (SOURCE / "methods").glob("[!_]*.py"))
PACKAGES = sorted(
    path.parent.name
    for path in SOURCE.glob("*/__init__.py")
    if "__all__" in path.read_text(encoding="utf-8")
)


def tracked(*patterns: str) -> list[Path]:
    """Files of the checkout, those not yet committed included."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *patterns]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def requirements() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"].values()
    names = [*PROJECT["dependencies"], *(name for extra in extras for name in extra)]
    return [Requirement(name) for name in names]


def test_the_package_has_every_method_and_the_trainers() -> None:
    trainers = ("Trainer", "with_method")
    assert sorted(rankwright.__all__) == sorted([*rankwright.methods.__all__, *trainers])
    for name in rankwright.__all__:
        home = rankwright.training if name in trainers else rankwright.methods
        assert getattr(rankwright, name) is getattr(home, name)
    assert {*rankwright.__all__} <= {*dir(rankwright)}
    with pytest.raises(AttributeError, match="no attribute 'LORA'"):
        _ = rankwright.LORA  # type: ignore[attr-defined]


def test_the_package_and_its_help_import_nothing_installed() -> None:
    """Torch and transformers take seconds; a start without them takes the interpreter's time."""
    program = """if True:
        import sys
        before = {*sys.modules}
        import rankwright
        from rankwright.cli import main
        assert [main([word]) for word in ("--help", "--version", "nothing")] == [0, 0, 2]
        new = {name.partition(".")[0] for name in {*sys.modules} - before}
        print(sorted(new - {*sys.stdlib_module_names}))
    """
    command = [sys.executable, "-c", program]
    printed = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    assert printed.splitlines()[-1] == "['rankwright']"


def test_a_command_says_nothing_of_its_imports() -> None:
    command = [sys.executable, "-m", "rankwright", "methods"]
    assert subprocess.run(command, capture_output=True, check=True, text=True).stderr == ""


@pytest.mark.parametrize("package", PACKAGES)
def test_all_is_what_the_package_gathers(package: str) -> None:
    module = importlib.import_module(f"rankwright.{package}")
    tree = ast.parse((SOURCE / package / "__init__.py").read_text(encoding="utf-8"))
    lazy = (node for node in tree.body if isinstance(node, ast.If))  # under TYPE_CHECKING
    public = {
        alias.asname or alias.name
        for node in (*tree.body, *(inner for block in lazy for inner in block.body))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rankwright.")
        for alias in node.names
        if not alias.name.startswith("_")
    }
    assert set(module.__all__) == public
    assert all(hasattr(module, name) for name in module.__all__)


def test_every_method_file_is_registered_under_its_name() -> None:
    assert sorted(method_registry.available_methods()) == METHODS
    for name, method in method_registry.available_methods().items():
        assert method.__module__ == f"rankwright.methods.{name}"
        assert getattr(rankwright.methods, method.__name__) is method


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_in_the_readme_and_has_a_page(method: str) -> None:
    title = method_registry.get_method(method).__name__
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(rf"^\|.*\b{title}\b", readme, flags=re.MULTILINE), "no row in README's table"
    assert (ROOT / "docs" / "methods" / f"{method}.md").is_file()


@pytest.mark.parametrize("command", ["train", "eval", "export", "report", "methods", "parts"])
def test_every_command_is_in_the_readme(command: str) -> None:
    assert f"rankwright {command}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_links_between_pages_lead_somewhere() -> None:
    dead = []
    for page in tracked("*.md"):
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            file = target.partition("#")[0]
            if file and "://" not in file and not (page.parent / file).exists():
                dead.append(f"{page.relative_to(ROOT)}: {target}")
    assert not dead


def test_no_file_names_a_folder_of_one_machine() -> None:
    machine = re.compile(rb"(?<![\w.])/(?:work|root|home|Users)/\w|[A-Z]:\\Users")
    found = [str(p.relative_to(ROOT)) for p in tracked() if machine.search(p.read_bytes())]
    assert not found


def test_every_dependency_is_pinned_within_its_range() -> None:
    pinned = pins()
    for requirement in requirements():
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is missing in constraints.txt"
        assert requirement.specifier.contains(version), f"{requirement}: {version} is pinned"


def test_the_makefile_installs_the_pinned_torch() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert re.findall(r"torch==([\w.]+)", makefile) == [pins()["torch"]]


def test_the_version_is_in_the_changelog() -> None:
    version = PROJECT["version"]
    assert importlib.metadata.version("rankwright") == version
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def lines_of_code(file: Path) -> int:
    """Lines that are neither blank nor only a comment or a docstring."""
    text = file.read_text("utf-8")
    strings = (
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    )
    documentation = {n for node in strings for n in range(node.lineno, node.end_lineno + 1)}
    return sum(
        bool(line.partition("#")[0].strip()) and number not in documentation
        for number, line in enumerate(text.splitlines(), start=1)
    )


def test_five_methods_are_smaller_than_one_of_peft() -> None:
    """Methods are short because they share their parts: five against PEFT's DoRA alone."""
    names = ("cola", "rac_lora", "olora", "pissa", "flat_lora")
    ours = sum(lines_of_code(ROOT / f"src/rankwright/methods/{name}.py") for name in names)
    theirs = lines_of_code(Path(peft.__file__).parent / "tuners/lora/dora.py")
    assert 5 * 10 < ours < theirs
