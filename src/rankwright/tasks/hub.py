"""Rows of a data set on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rankwright.tasks.bad_rows import Item
from rankwright.tasks.errors import TaskError, Where, listing
from rankwright.tasks.rows import Row
from rankwright.tasks.sources import Source

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True, kw_only=True)
class Hub(Source):
    """A data set of the Hugging Face hub.

    Attributes:
        path: The name on the hub, such as `nyu-mll/glue`.
        config: The part of it, such as `rte`.
        splits: Our split name -> the name on the hub. `None` takes train, validation and test, if
            they exist.
    """

    path: str
    config: str | None = None
    splits: Mapping[str, str] | None = None

    def read(self) -> Mapping[str, Iterable[Item]]:
        """Download the data set, or takes it from the local cache.

        Raises:
            TaskError: If it cannot be loaded, or a split is missing.
        """
        import datasets  # which imports torch

        name = self.path if self.config is None else f"{self.path} ({self.config})"
        try:
            loaded = datasets.load_dataset(self.path, self.config)
        # ConnectionError and "not found" are OSErrors; a data set with a loading script raises a
        # RuntimeError.
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            raise TaskError(
                f"hub data set {name}: cannot be loaded ({type(error).__name__}: {error}). "
                "Check the name, and that the hub can be reached or the data set is cached "
                "(HF_HUB_OFFLINE and HF_DATASETS_OFFLINE must not be set for a download)."
            ) from error
        splits = self.splits or {s: s for s in ("train", "validation", "test") if s in loaded}
        missing = [theirs for theirs in splits.values() if theirs not in loaded]
        if missing or "train" not in splits:
            raise TaskError(
                f"hub data set {name}: no split {(missing or ['train'])[0]!r}; it has "
                f"{listing(loaded)}. Map the splits with hub_splits in a task file, such as "
                "hub_splits: {train: ..., validation: ...}."
            )
        return {ours: _hub_rows(name, loaded[theirs]) for ours, theirs in splits.items()}


def _hub_rows(name: str, split: datasets.Dataset) -> list[Row]:
    place = f"{name}[{split.split}]"
    return [Row(Where(place, count, "row"), row) for count, row in enumerate(split, start=1)]
