"""The held text: paragraphs unrelated to any task, on which forgetting is measured."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from rankwright.errors import MethodError
from rankwright.job.paths import expanded
from rankwright.tasks import StdlibDocs

MAX_PARAGRAPHS = 64


@dataclass(frozen=True)
class HeldText:
    """Paragraphs that no task trains on.

    Attributes:
        name: Name of the text in reports.
        paragraphs: The paragraphs, at most `MAX_PARAGRAPHS`; each is scored by itself.
    """

    name: str
    paragraphs: tuple[str, ...]

    @classmethod
    def read(cls, path: str | None) -> HeldText:
        """Read the paragraphs of a text file; for None, docstrings of Python's standard library.

        Raises:
            MethodError: The file cannot be read, or is empty.
        """
        if path is None:
            docs = [str(row["text"]) for row in StdlibDocs().read()["train"]]
            return cls("docstrings of the standard library", _thin_out(docs))
        try:
            text = expanded(path).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise MethodError(f"held_text = {path!r}: cannot be read ({error})") from error
        paragraphs = [part.strip() for part in text.split("\n\n") if part.strip()]
        if not paragraphs:
            raise MethodError(f"held_text = {path!r}: expected paragraphs of text; it is empty")
        return cls(Path(path).name, _thin_out(paragraphs))

    @property
    def sha256(self) -> str:
        """Digest of the paragraphs."""
        return hashlib.sha256("\0".join(self.paragraphs).encode()).hexdigest()


def _thin_out(paragraphs: list[str]) -> tuple[str, ...]:
    """Return at most `MAX_PARAGRAPHS` paragraphs, evenly spaced from start to end."""
    return tuple(paragraphs[:: -(-len(paragraphs) // MAX_PARAGRAPHS)])
