"""The class and the arguments that a base model is loaded with."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rankwright.job.files import write_json
from rankwright.tasks import PreparedTask

_NAMINGS = ("id2label", "label2id")


@dataclass(frozen=True)
class Head:
    """The class and the arguments that a base model is loaded with.

    Attributes:
        auto_class: Name of the class in `transformers`.
        model_kwargs: Keyword arguments of its `from_pretrained`, such as the labels.
        replaces: Whether the base model's file has a head of another size, which is not loaded.
    """

    auto_class: str
    model_kwargs: dict[str, Any]
    replaces: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        """Turn the keys of `id2label` into integers: JSON has strings only."""
        if "id2label" in self.model_kwargs:
            names = self.model_kwargs["id2label"].items()
            self.model_kwargs["id2label"] = {int(index): name for index, name in names}

    @classmethod
    def of(cls, prepared: PreparedTask, *, replaces: bool = False) -> Head:
        """Return the head that a task needs."""
        return cls(prepared.auto_class, prepared.model_kwargs, replaces)

    @classmethod
    def load(cls, path: Path) -> Head:
        """Read the JSON file.

        Raises:
            OSError: The file cannot be read.
            ValueError: The file is not JSON.
            TypeError: Its content has another form.
        """
        head = json.loads(path.read_text("utf-8"))
        kwargs = head.get("model_kwargs") if isinstance(head, dict) else None
        if (
            not isinstance(kwargs, dict)
            or not isinstance(head.get("auto_class"), str)
            or not all(isinstance(kwargs.get(name, {}), dict) for name in _NAMINGS)
        ):
            raise TypeError("the name of a class and keyword arguments were expected")
        return cls(**head)

    def save(self, path: Path) -> None:
        """Write the JSON file completely or not at all."""
        write_json(path, dataclasses.asdict(self))

    def __str__(self) -> str:
        """Return the class, and the labels if there are any."""
        labels = ", ".join(self.model_kwargs.get("label2id", ()))
        return self.auto_class + (f" with the labels {labels}" if labels else "")
