"""The built-in task: which package of the standard library is this docstring from?

The rows are the docstrings of modules, classes and functions in the running Python's own library,
read from its source files and never imported. Nothing has to be downloaded, and every machine
with the same Python has the same rows.
"""

from __future__ import annotations

import ast
import inspect
import re
import sysconfig
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rankwright.tasks.errors import TaskError, Where
from rankwright.tasks.rows import Row
from rankwright.tasks.sources import Source

PACKAGES = (
    "asyncio",
    "datetime",
    "email",
    "http",
    "importlib",
    "inspect",
    "ipaddress",
    "logging",
    "mailbox",
    "multiprocessing",
    "pathlib",
    "tarfile",
    "typing",
    "unittest",
    "urllib",
    "xml",
)
ELSEWHERE = {"datetime": "_pydatetime"}
"""Module -> module with its pure-Python source in a newer Python."""
MIN_WORDS = 8
MASK = "[MASK]"

_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, kw_only=True)
class StdlibDocs(Source):
    """Docstrings with the package they are from, in the columns `text` and `package`.

    The indentation of a docstring is removed, and the name of its own package is masked everywhere,
    even inside a word. Exact duplicates count once; a text that two packages share is left out,
    since neither answer would be right.

    Attributes:
        validation_share: Approximate share that is held out, by a hash of the text.
        library: The folder of the standard library; `None` for that of the running Python.
    """

    validation_share: float | None = 0.2
    library: Path | None = None

    def read(self) -> dict[str, list[Row]]:
        """Collect the docstrings of every package."""
        library = self.library or Path(sysconfig.get_paths()["stdlib"])
        found: dict[str, dict[str, Where]] = defaultdict(dict)
        for package in PACKAGES:
            for text, where in docstrings(library, package):
                if len(text.split()) >= MIN_WORDS:
                    found[mask_name(text, package)].setdefault(package, where)
        rows = [
            Row(where, {"text": text, "package": package})
            for text, origins in found.items()
            if len(origins) == 1
            for package, where in origins.items()
        ]
        return {"train": rows}


def mask_name(text: str, package: str) -> str:
    """Replace the name of a package by a mask, in any case and in words such as `HTTPServer`."""
    return re.sub(re.escape(package), MASK, text, flags=re.IGNORECASE)


def docstrings(library: Path, package: str) -> Iterator[tuple[str, Where]]:
    """Yield every docstring of a package with its place, in the order of files and lines.

    Args:
        library: The folder of the standard library.
        package: A package, or a module in one file.

    Raises:
        TaskError: If the library has no source of the package.
    """
    for path in source_files(library, package):
        with tokenize.open(path) as stream:
            tree = ast.parse(stream.read())
        nodes = (node for node in ast.walk(tree) if isinstance(node, _Documented))
        for node in sorted(nodes, key=lambda node: getattr(node, "lineno", 0)):
            text = ast.get_docstring(node, clean=False)
            if text is not None:
                where = Where(path.relative_to(library).as_posix(), node.body[0].lineno)
                yield inspect.cleandoc(text), where


def source_files(library: Path, package: str) -> list[Path]:
    """Return the source files of a package, tests left out, in a fixed order.

    Raises:
        TaskError: If there are none.
    """
    for name in (package, ELSEWHERE.get(package, package)):
        folder, module = library / name, library / f"{name}.py"
        if folder.is_dir():
            files = [path for path in folder.rglob("*.py") if not _is_test(path, folder)]
            return sorted(files, key=lambda path: path.relative_to(library).as_posix())
        # From 3.12 on datetime.py only passes on what _pydatetime.py defines.
        if module.is_file() and (name != package or not _has_elsewhere(library, package)):
            return [module]
    raise TaskError(
        f"{library}: no source of the standard-library package {package!r}. Use a Python "
        "installation that comes with the .py files of its library."
    )


def _has_elsewhere(library: Path, package: str) -> bool:
    return package in ELSEWHERE and (library / f"{ELSEWHERE[package]}.py").is_file()


def _is_test(path: Path, folder: Path) -> bool:
    return any(part in {"test", "tests"} for part in path.relative_to(folder).parts)
