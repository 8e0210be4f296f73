"""Where rows come from: files, the hub, or anything else that can list them by split."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from rankwright.tasks.bad_rows import BadRows, Item, Note
from rankwright.tasks.errors import TaskError, Where, listing, shorten
from rankwright.tasks.files import Paths, rows_of
from rankwright.tasks.rows import Row

if TYPE_CHECKING:
    import datasets

T = TypeVar("T")


@dataclass(frozen=True)
class Splits:
    """The rows of a task, in the order of their source.

    Attributes:
        train: The rows to learn from.
        validation: The rows to choose by.
        test: The rows to report on, where the source has them.
        notices: Notices for the user about how they were read.
    """

    train: tuple[Row, ...]
    validation: tuple[Row, ...]
    test: tuple[Row, ...] | None = None
    notices: tuple[str, ...] = ()

    @property
    def by_name(self) -> dict[str, tuple[Row, ...] | None]:
        """The rows of every split; `None` where it has none."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def __getitem__(self, split: str) -> tuple[Row, ...]:
        """Returns the rows of `"train"`, `"validation"` or `"test"`.

        Raises:
            TaskError: If there is no such split.
        """
        rows = self.by_name.get(split)
        if rows is None:
            known = [name for name, value in self.by_name.items() if value is not None]
            raise TaskError(f"split {split!r}: the task has none; it has {listing(known)}.")
        return rows

    def seen(self, columns: Sequence[str]) -> dict[str, int]:
        """Counts the rows of other splits that equal a training row in these columns."""
        known = {_key(row, columns) for row in self.train}
        counts = self.map(lambda rows: sum(_key(row, columns) in known for row in rows))
        return {name: count for name, count in counts.items() if count and name != "train"}

    @property
    def by_file(self) -> dict[str, list[Row]]:
        """The rows of every file."""
        files: dict[str, list[Row]] = {}
        for rows in self.by_name.values():
            for row in rows or ():
                files.setdefault(row.where.path, []).append(row)
        return files

    def sifted(self, sift: Callable[[Sequence[Row]], Sequence[Row]]) -> Splits:
        """Returns the same with fewer rows in every split."""
        train, validation = tuple(sift(self.train)), tuple(sift(self.validation))
        test = None if self.test is None else tuple(sift(self.test))
        return replace(self, train=train, validation=validation, test=test)

    def map(self, function: Callable[[Sequence[Row]], T]) -> dict[str, T | None]:
        """Applies a function to the rows of every split; `None` for a split that is not there."""
        return {
            name: None if rows is None else function(rows) for name, rows in self.by_name.items()
        }


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """Rows by split.

    Attributes:
        validation_share: The share of the training rows, between 0 and 1, that becomes the
            validation split where the source has none.
        seed: Chooses which rows these are.
    """

    validation_share: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        share = self.validation_share
        if share is not None and not 0 < share < 1:
            raise TaskError(f"validation_share={share}: expected a share between 0 and 1.")

    @abstractmethod
    def read(self) -> Mapping[str, Iterable[Item]]:
        """Returns the rows of every split that there is; `"train"` is always one."""

    def load(self, key_columns: Sequence[str], bad: BadRows | None = None) -> Splits:
        """Reads the rows, and splits off a validation part where there is none.

        Args:
            key_columns: The columns of the input. Rows that are equal in them stay on one side
                of the split, so that no validation input was trained on.
            bad: Checks every row, and takes out what does not pass.

        Raises:
            TaskError: If the data cannot be read, a row is bad, or there is no validation split and
                no share.
        """
        bad = bad or BadRows()
        rows = {split: bad.sift(part) for split, part in self.read().items()}
        bad.refuse()
        if "validation" not in rows:
            rows |= self._split(rows["train"], key_columns)
        test = tuple(rows["test"]) if "test" in rows else None
        return Splits(tuple(rows["train"]), tuple(rows["validation"]), test)

    def naming(self, splits: Splits) -> tuple[Row, ...]:
        """The rows that class names are inferred from: the training rows.

        Args:
            splits: The result of `load`.
        """
        return splits.train

    def _split(self, rows: Sequence[Row], key_columns: Sequence[str]) -> dict[str, list[Row]]:
        share = self.validation_share
        if share is None:
            raise TaskError(
                "there is no validation data. Name a validation file (--validation-data; "
                "validation in a task file), or set validation_share (0.1 holds out about a tenth "
                "of the training rows)."
            )
        parts: dict[str, list[Row]] = {"train": [], "validation": []}
        for row in rows:
            held_out = position([row[column] for column in key_columns], self.seed) < share
            parts["validation" if held_out else "train"].append(row)
        if not parts["train"] or not parts["validation"]:
            raise _one_sided(rows, key_columns, share)
        return parts


class EqualInputsError(TaskError):
    """All rows have the same input, so no share of them can be held out."""


def _one_sided(rows: Sequence[Row], key_columns: Sequence[str], share: float) -> TaskError:
    """The error about a share of the rows that leaves one side of a split empty."""
    remedy = "or name a validation file (--validation-data; validation in a task file)."
    inputs = {_key(row, key_columns) for row in rows}
    if len(rows) == 1 or len(inputs) > 1:
        return TaskError(
            f"a share of {share} of {len(rows)} rows with {len(inputs)} different inputs leaves "
            "one side empty. Add rows with other inputs, change the share (--validation-share, "
            f"--tuning-share), {remedy}"
        )
    names = ", ".join(map(repr, key_columns))
    cells = ", ".join(shorten(rows[0].fields.get(column)) for column in key_columns)
    others = (name for name in rows[0].fields if name not in key_columns)
    differing = [name for name in others if len({_key(row, [name]) for row in rows}) > 1]
    advice = (
        f"Rows differ in {listing(differing)}: name an input column among these,"
        if differing
        else "Add rows with other inputs,"
    )
    return EqualInputsError(
        f"all {len(rows)} rows hold the same {names}: {cells}, and rows of equal input stay on one "
        f"side of a split. {advice} {remedy}"
    )


def _key(row: Row, columns: Sequence[str]) -> str:
    cells = [row.fields.get(column) for column in columns]
    return json.dumps(cells, ensure_ascii=False, default=str)


def position(key: Sequence[object], seed: int) -> float:
    """Returns a number in [0, 1) that depends on nothing but the key and the seed.

    A hash and not a shuffle: a row keeps its side of a split when others are added or reordered.
    """
    text = json.dumps([seed, *key], ensure_ascii=False, default=str)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6]) / 2**48  # 48 bits are exact in a float


@dataclass(frozen=True, kw_only=True)
class SetAside(Source):
    """Training rows of another source only, a share of them to choose by.

    For choosing hyperparameters: the rows that results are reported on are not among these.

    Attributes:
        source: The other source. Its seed must be another: what it split off by a hash of the same
            seed would be the very share that is asked for here.
    """

    source: Source

    def load(self, key_columns: Sequence[str], bad: BadRows | None = None) -> Splits:
        """Divides the training rows of the other source."""
        whole = self.source.load(key_columns, bad)
        parts = self._split(whole.train, key_columns)
        return Splits(tuple(parts["train"]), tuple(parts["validation"]), notices=whole.notices)

    def naming(self, splits: Splits) -> tuple[Row, ...]:
        """Both parts: all are training rows of the other source, and its classes are the same."""
        return splits.train + splits.validation

    def read(self) -> Mapping[str, Iterable[Item]]:
        """The training rows of the other source, not yet divided."""
        return {"train": self.source.read()["train"]}


@dataclass(frozen=True, kw_only=True)
class Known(Source):
    """Rows that another source has loaded already.

    Attributes:
        source: The other source.
        splits: The result of its `load`.
    """

    source: Source
    splits: Splits

    def load(
        self,
        key_columns: Sequence[str],  # noqa: ARG002 - the rows are divided already
        bad: BadRows | None = None,  # noqa: ARG002 - and checked
    ) -> Splits:
        """The rows, without the notices about them."""
        return replace(self.splits, notices=())

    def naming(self, splits: Splits) -> tuple[Row, ...]:
        """As in the other source."""
        return self.source.naming(splits)

    def read(self) -> Mapping[str, Iterable[Item]]:
        """The rows of every split."""
        return {name: rows for name, rows in self.splits.by_name.items() if rows is not None}


@dataclass(frozen=True, kw_only=True)
class WithTest(Source):
    """Another source with the rows of a file as its test split.

    For rows of the user's own that have to be labelled as the training rows of any source are.

    Attributes:
        source: The other source.
        path: The file, or several.
        delimiter: What separates the cells of CSV files; `None` to see it in the header.
    """

    source: Source
    path: Paths
    delimiter: str | None = None

    def load(self, key_columns: Sequence[str], bad: BadRows | None = None) -> Splits:
        """Reads both."""
        bad = bad or BadRows()
        splits = self.source.load(key_columns, bad)
        test = tuple(bad.sift(rows_of(self.path, self.delimiter)))
        bad.refuse()
        return replace(splits, test=test)

    def naming(self, splits: Splits) -> tuple[Row, ...]:
        """As in the other source."""
        return self.source.naming(splits)

    def read(self) -> Mapping[str, Iterable[Item]]:
        """The rows of the other source with those of the file as `"test"`."""
        return {**self.source.read(), "test": rows_of(self.path, self.delimiter)}


@dataclass(frozen=True, kw_only=True)
class Files(Source):
    """Data files; see `files.parsed_rows` for the formats.

    Attributes:
        train: The file of a split, or several. A name may be a pattern.
        validation: The same.
        test: The same.
        delimiter: What separates the cells of CSV files; `None` to see it in the header.
        notes: Notices for the user about how the columns were understood.
    """

    train: Paths
    validation: Paths | None = None
    test: Paths | None = None
    delimiter: str | None = None
    notes: tuple[str, ...] = field(default=(), compare=False)

    def read(self) -> Mapping[str, Iterable[Item]]:
        """Reads every named file."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        rows = {
            split: rows_of(paths, self.delimiter)
            for split, paths in named.items()
            if paths is not None
        }
        return {**rows, "train": [*map(Note, self.notes), *rows["train"]]}


@dataclass(frozen=True, kw_only=True)
class Hub(Source):
    """A data set of the Hugging Face hub.

    Attributes:
        path: The name on the hub, such as `nyu-mll/glue`.
        config: The part of it, such as `rte`.
        splits: Our split names to those of the hub. `None` takes those of the three that exist.
    """

    path: str
    config: str | None = None
    splits: Mapping[str, str] | None = None

    def read(self) -> Mapping[str, Iterable[Item]]:
        """Downloads the data set, or takes it from the local cache.

        Raises:
            TaskError: If it cannot be loaded, or a split is missing.
        """
        import datasets  # which imports torch

        name = self.path if self.config is None else f"{self.path} ({self.config})"
        try:
            loaded = datasets.load_dataset(self.path, self.config)
        # ConnectionError and "not found" are OSErrors; a set with a script of its own is refused by
        # a RuntimeError.
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
