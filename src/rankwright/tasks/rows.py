"""A row of data: cells by column, and the place in a file that they came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rankwright.tasks.errors import TaskError, Where, listing, suggestion


@dataclass(frozen=True, slots=True)
class Row:
    """One example as it is in its file.

    Attributes:
        where: The file and line that it came from; every error about the row starts with it.
        fields: The cells by column name.
    """

    where: Where
    fields: Mapping[str, object]

    def __getitem__(self, column: str) -> object:
        """Return the cell of `column`.

        Raises:
            TaskError: If the row has no such column.
        """
        if column not in self.fields:
            raise TaskError(
                f"{self.where}: there is no column {column!r}; the columns are "
                f"{listing(self.fields)}.{suggestion(column, self.fields)} "
                "Name an existing column in the task, or add this one to the file."
            )
        return self.fields[column]


def digest(rows: Iterable[Row], columns: Sequence[str]) -> str:
    """Return the SHA-256 of the cells of these columns of all rows, in order."""
    hashed = hashlib.sha256()
    for row in rows:
        cells = {column: row.fields.get(column) for column in columns}
        line = json.dumps(cells, ensure_ascii=False, default=str)
        hashed.update(line.encode("utf-8", "surrogatepass") + b"\n")
    return hashed.hexdigest()
