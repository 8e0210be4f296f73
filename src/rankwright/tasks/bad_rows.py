"""Collect the rows that a task cannot use, and report all of them in one message."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rankwright.tasks.errors import TaskError, Where, listing
from rankwright.tasks.rows import Row

SHOWN = 10
"""Number of bad rows that a message lists."""
_ADVICE = "leave {them} out with --skip-bad-rows (skip_bad_rows in Python and YAML)."


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that does not parse.

    Attributes:
        where: The file and line that it came from.
        problem: The message about it, `where` included.
    """

    where: Where
    problem: str


@dataclass(frozen=True, slots=True)
class Note:
    """A notice about how a file was read.

    Attributes:
        text: The file, and how it was understood.
    """

    text: str


Item = Row | BadRow | Note
"""An item that a file reader yields."""


class BadRows:
    """Separates bad rows from good ones, and reports them.

    Attributes:
        skip: Whether to continue without the bad rows.
        count: Number of bad rows.
    """

    def __init__(self, check: Callable[[Row], object] | None = None, *, skip: bool = False) -> None:
        self.skip = skip
        self.count = 0
        self._check = check
        self._rows: Counter[str] = Counter()  # by file
        self._notes: list[str] = []
        self._problems: list[str] = []
        self._places: list[str] = []
        self._shared: dict[str, tuple[str, int]] = {}  # by file: first problem, and its count

    def sift(self, items: Iterable[Item]) -> list[Row]:
        """Return the rows that parse and pass the check.

        Raises:
            TaskError: If bad rows are skipped and no good one is left.
        """
        every: list[Row | BadRow] = []
        for item in items:
            if isinstance(item, Note):
                self._notes.append(item.text)
            else:
                every.append(item)
        self._rows.update(row.where.path for row in every)
        return self._sift(every, self._check)

    def sift_again(self, rows: Iterable[Row], check: Callable[[Row], object]) -> list[Row]:
        """Return those sifted rows that also pass another check.

        Raises:
            TaskError: If bad rows are skipped and no good one is left.
        """
        return self._sift(list(rows), check)

    def _sift(
        self, rows: list[Row | BadRow] | list[Row], check: Callable[[Row], object] | None
    ) -> list[Row]:
        good = []
        for row in rows:
            if isinstance(row, BadRow):
                self._add(row.where, row.problem)
                continue
            try:
                if check is not None:
                    check(row)
            except TaskError as error:
                self._add(row.where, str(error))
            else:
                good.append(row)
        if self.skip and rows and not good:
            self.skip = False  # nothing would be left
            self.refuse()
        return good

    def _add(self, where: Where, problem: str) -> None:
        self.count += 1
        if len(self._problems) < SHOWN:
            self._problems.append(problem)
            self._places.append(str(where))
        bare = problem.removeprefix(f"{where}: ")
        first, times = self._shared.get(where.path, (problem, 0))
        if first.endswith(bare):
            self._shared[where.path] = first, times + 1

    def refuse(self) -> None:
        """Raise one error for all bad rows, unless they are skipped.

        Raises:
            TaskError: If there are bad rows; it lists the first ten and states their number.
        """
        if self.skip or not self.count:
            return
        for path, (problem, times) in self._shared.items():
            if times == self._rows[path]:
                more = f" All {times:,} rows have this problem." if times > 1 else ""
                raise TaskError(problem + more)
        if self.count == 1:
            raise TaskError(f"{self._problems[0]} Or {_ADVICE.format(them='it')}")
        more = f"; the first {SHOWN}" if self.count > SHOWN else ""
        raise TaskError(
            f"{self.count:,} of {self._rows.total():,} rows are bad{more}:\n"
            + "\n".join(f"  {problem}" for problem in self._problems)
            + (
                "\nCorrect them."
                if self.count == self._rows.total()
                else f"\nCorrect them, or {_ADVICE.format(them='them')}"
            )
        )

    @property
    def notices(self) -> tuple[str, ...]:
        """Notices about how files were read and which rows were left out."""
        notes = tuple(dict.fromkeys(self._notes))
        if not self.count:
            return notes
        more = self.count - len(self._places)
        places = listing(self._places, SHOWN) + (f" and {more:,} more" if more else "")
        what = "1 bad row was" if self.count == 1 else f"{self.count:,} bad rows were"
        return (*notes, f"{what} left out: {places}")
