"""What a base model is loaded with, beside its name."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rankwright.job.files import write_json
from rankwright.tasks import PreparedTask


@dataclass(frozen=True)
class Head:
    """What a base model is loaded with, beside its name.

    Attributes:
        auto_class: Name of the class in `transformers`.
        model_kwargs: Keyword arguments of its `from_pretrained`, such as the labels.
        replaces: Whether the base model's file has a head of another size, which is not loaded.
    """

    auto_class: str
    model_kwargs: dict[str, Any]
    replaces: bool = field(default=False, compare=False)

    @classmethod
    def of(cls, prepared: PreparedTask, *, replaces: bool = False) -> Head:
        """The head that a task wants."""
        return cls(prepared.auto_class, prepared.model_kwargs, replaces)

    @classmethod
    def load(cls, path: Path) -> Head:
        """Read the JSON file."""
        head = cls(**json.loads(path.read_text("utf-8")))
        if "id2label" in head.model_kwargs:  # JSON has no whole numbers for keys
            names = head.model_kwargs["id2label"].items()
            head.model_kwargs["id2label"] = {int(index): name for index, name in names}
        return head

    def save(self, path: Path) -> None:
        """Write the JSON file whole or not at all."""
        write_json(path, dataclasses.asdict(self))

    def __str__(self) -> str:
        """The class, and the labels where there are some."""
        labels = ", ".join(self.model_kwargs.get("label2id", ()))
        return self.auto_class + (f" with the labels {labels}" if labels else "")
