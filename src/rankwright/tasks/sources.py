"""Sources of rows: files, and sources derived from another one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rankwright.tasks.bad_rows import BadRows, Item, Note
from rankwright.tasks.errors import TaskError
from rankwright.tasks.files import Paths, rows_of
from rankwright.tasks.rows import Row
from rankwright.tasks.splits import Splits, hold_out


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """A source of rows by split.

    Attributes:
        validation_share: The share of the training rows, between 0 and 1, that becomes the
            validation split if the source has none.
        seed: Seed of the choice of these rows.
    """

    validation_share: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        share = self.validation_share
        if share is not None and not 0 < share < 1:
            raise TaskError(f"validation_share={share}: expected a share between 0 and 1.")

    @abstractmethod
    def read(self) -> Mapping[str, Iterable[Item]]:
        """Return the rows of every split of the source; `"train"` is always there."""

    def load(self, key_columns: Sequence[str], bad: BadRows | None = None) -> Splits:
        """Read the rows, and hold out a validation part if the source has none.

        Args:
            key_columns: The columns of the input. Rows that are equal in them stay on one side
                of the split, so that no validation input was trained on.
            bad: Checks every row, and removes those that do not pass.

        Raises:
            TaskError: If the data cannot be read, a row is bad, or there is no validation split and
                no share.
        """
        bad = bad or BadRows()
        rows: dict[str, Sequence[Row]] = {
            split: bad.sift(part) for split, part in self.read().items()
        }
        bad.refuse()
        if "validation" not in rows:
            rows |= self._hold_out(rows["train"], key_columns)
        test = tuple(rows["test"]) if "test" in rows else None
        return Splits(tuple(rows["train"]), tuple(rows["validation"]), test)

    def naming(self, splits: Splits) -> tuple[Row, ...]:
        """Return the rows that class names are inferred from: the training rows.

        Args:
            splits: The result of `load`.
        """
        return splits.train

    def _hold_out(
        self, rows: Sequence[Row], key_columns: Sequence[str]
    ) -> dict[str, tuple[Row, ...]]:
        if self.validation_share is None:
            raise TaskError(
                "there is no validation data. Name a validation file (--validation-data; "
                "validation in a task file), or set validation_share (0.1 holds out about a tenth "
                "of the training rows)."
            )
        return hold_out(rows, key_columns, self.validation_share, self.seed)


@dataclass(frozen=True, kw_only=True)
class SetAside(Source):
    """The training rows of another source, a share of them held out for validation.

    It serves the choice of hyperparameters: rows that results are reported on are not among these.

    Attributes:
        source: The other source. Its seed must differ: with the same seed, the hash that held out
            its validation part would select the very rows that are asked for here.
    """

    source: Source

    def load(self, key_columns: Sequence[str], bad: BadRows | None = None) -> Splits:
        """Divide the training rows of the other source."""
        whole = self.source.load(key_columns, bad)
        parts = self._hold_out(whole.train, key_columns)
        return Splits(**parts, notices=whole.notices)

    def naming(self, splits: Splits) -> tuple[Row, ...]:
        """Return both parts: all are training rows of the other source, with the same classes."""
        return splits.train + splits.validation

    def read(self) -> Mapping[str, Iterable[Item]]:
        """Return the training rows of the other source, not yet divided."""
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
        """Return the rows, without the notices about them."""
        return replace(self.splits, notices=())

    def naming(self, splits: Splits) -> tuple[Row, ...]:
        """Return the rows that the other source infers class names from."""
        return self.source.naming(splits)

    def read(self) -> Mapping[str, Iterable[Item]]:
        """Return the rows of every split."""
        return {name: rows for name, rows in self.splits.by_name.items() if rows is not None}


@dataclass(frozen=True, kw_only=True)
class WithTest(Source):
    """Another source with the rows of a file as its test split.

    It gives rows of the user's own the same labels as the training rows of any source.

    Attributes:
        source: The other source.
        path: One file or several.
        delimiter: Delimiter of CSV files; `None` to infer it from the header.
    """

    source: Source
    path: Paths
    delimiter: str | None = None

    def load(self, key_columns: Sequence[str], bad: BadRows | None = None) -> Splits:
        """Read the other source, and the file."""
        bad = bad or BadRows()
        splits = self.source.load(key_columns, bad)
        test = tuple(bad.sift(rows_of(self.path, self.delimiter)))
        bad.refuse()
        return replace(splits, test=test)

    def naming(self, splits: Splits) -> tuple[Row, ...]:
        """Return the rows that the other source infers class names from."""
        return self.source.naming(splits)

    def read(self) -> Mapping[str, Iterable[Item]]:
        """Return the rows of the other source with those of the file as `"test"`."""
        return {**self.source.read(), "test": rows_of(self.path, self.delimiter)}


@dataclass(frozen=True, kw_only=True)
class Files(Source):
    """Data files; see `files.parsed_rows` for the formats.

    Attributes:
        train: The training file, or several. A name may be a pattern.
        validation: The same for validation.
        test: The same for test.
        delimiter: Delimiter of CSV files; `None` to infer it from the header.
        notes: Notices for the user about how the columns were understood.
    """

    train: Paths
    validation: Paths | None = None
    test: Paths | None = None
    delimiter: str | None = None
    notes: tuple[str, ...] = field(default=(), compare=False)

    def read(self) -> Mapping[str, Iterable[Item]]:
        """Read every named file."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        rows = {
            split: rows_of(paths, self.delimiter)
            for split, paths in named.items()
            if paths is not None
        }
        return {**rows, "train": [*map(Note, self.notes), *rows["train"]]}
