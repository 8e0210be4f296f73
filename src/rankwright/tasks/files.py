"""Rows from data files, each with the exact line that it starts at.

Text formats are read line by line with the standard library, because the readers of `pandas` and
`datasets` do not report the line of a row that they reject.
"""

from __future__ import annotations

import glob
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

from rankwright.tasks.bad_rows import BadRows, Item, Note
from rankwright.tasks.column_files import column_rows
from rankwright.tasks.csv_files import LOOKED_AT, csv_rows
from rankwright.tasks.errors import TaskError, Where, no_such_file
from rankwright.tasks.json_files import json_array, json_lines
from rankwright.tasks.lines import lines
from rankwright.tasks.rows import Row

Paths = Path | tuple[Path, ...]
"""One file or several; a name may be a pattern."""
PARQUET_BATCH = 4096
"""Rows per batch; one batch is enough to find the columns."""


def read_rows(path: str | Path, delimiter: str | None = None) -> list[Row]:
    """Read every row of a data file; see `parsed_rows`.

    Raises:
        TaskError: If the file cannot be read, or rows of it do not parse.
    """
    bad = BadRows()
    rows = bad.sift(parsed_rows(path, delimiter))
    bad.refuse()
    return rows


def parsed_rows(path: str | Path, delimiter: str | None = None) -> list[Item]:
    """Read every row of a data file, including rows that do not parse.

    Args:
        path: A file with one of the endings of `READERS`; all but `.parquet` may also be `.gz`.
            Text is UTF-8. Blank lines are skipped. A CSV file starts with a header.
        delimiter: Delimiter of a CSV file; `None` to infer it from the header.

    Raises:
        TaskError: If the file is missing, unreadable or empty, or has an unknown extension.
    """
    path = Path(path)
    items = list(_items(path, delimiter, None))
    if all(isinstance(item, Note) for item in items):
        raise TaskError(f"{path}: the file has no rows; expected at least one.")
    return items


def files_of(paths: Paths) -> list[Path]:
    """Return the files that names and patterns with `*`, `?` or `[]` stand for.

    Raises:
        TaskError: If a pattern matches no file, or a file is named twice.
    """
    files: list[Path] = []
    for path in paths if isinstance(paths, tuple) else (paths,):
        if path.exists() or not glob.has_magic(str(path)):
            files.append(path)
            continue
        found = sorted(map(Path, glob.glob(str(path))))  # noqa: PTH207 - the pattern may start at /
        if not found:
            raise TaskError(f"{path}: no file matches. Check the path and the pattern.")
        files += found
    for path in files:
        if files.count(path) > 1:
            raise TaskError(f"{path}: the file is named twice. Name every file once.")
    return files


def data_paths(names: str | Sequence[str]) -> Paths:
    """Return the paths of one or several names, with `~` replaced."""
    paths = tuple(
        Path(name).expanduser() for name in ([names] if isinstance(names, str) else names)
    )
    return paths[0] if len(paths) == 1 else paths


def rows_of(paths: Paths, delimiter: str | None = None) -> list[Item]:
    """Read every row of one or several files; see `parsed_rows`.

    Raises:
        TaskError: See `files_of` and `parsed_rows`.
    """
    return [item for path in files_of(paths) for item in parsed_rows(path, delimiter)]


def first_columns(path: Path, delimiter: str | None = None) -> tuple[str, ...]:
    """Return the columns of the first row that parses, from the start of a file.

    Raises:
        TaskError: If the file is missing or unreadable, its extension is unknown, or no row parses.
    """
    for item in _items(path, delimiter, LOOKED_AT):
        if isinstance(item, Row):
            return tuple(item.fields)
    rows = BadRows(skip=True).sift(parsed_rows(path, delimiter))  # raises if no row parses
    return tuple(rows[0].fields)


def _items(path: Path, delimiter: str | None, most: int | None) -> Iterator[Item]:
    """Yield the items of a file, from all of its lines or the first `most` ones."""
    if path.is_dir():
        raise TaskError(f"{path}: it is a folder; name its files, or a pattern such as part-*.csv.")
    kind = extension(path).removesuffix(".gz")
    reader = READERS.get(kind)
    if reader is None or extension(path) == ".parquet.gz":
        raise TaskError(
            f"{path}: unknown extension {extension(path)!r}; expected one of "
            f"{', '.join(READERS)}. Convert or rename the file."
        )
    if not path.is_file():
        raise no_such_file(path)
    if delimiter is not None and kind in (".csv", ".tsv"):
        reader = partial(csv_rows, delimiter=delimiter)
    try:
        yield from reader(path, lines(path) if kind == ".json" else islice(lines(path), most))
    except (OSError, EOFError, zlib.error) as error:
        raise TaskError(f"{path}: cannot be read ({error}). Is the file complete?") from error


def extension(path: Path) -> str:
    """Return the lower-case extension that decides the format, `.gz` included."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    return "".join(suffixes if suffixes[-1:] == [".gz"] else suffixes[-1:])


def is_data_file(path: Path) -> bool:
    """Whether the extension of a file is one of `READERS`."""
    return extension(path).removesuffix(".gz") in READERS


def parquet_rows(path: Path, lines: Iterable[str]) -> Iterator[Row]:  # noqa: ARG001
    """Read a parquet file, whose rows are counted from 1, a batch at a time.

    Raises:
        OSError: If the file is damaged.
    """
    import pyarrow.parquet

    count = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(PARQUET_BATCH):
                for fields in batch.to_pylist():
                    count += 1
                    yield Row(Where(str(path), count, "row"), fields)
    except pyarrow.ArrowException as error:
        raise OSError(str(error)) from error


Reader = Callable[[Path, Iterable[str]], Iterator[Item]]
READERS: dict[str, Reader] = {
    ".jsonl": json_lines,
    ".json": json_array,
    ".csv": csv_rows,
    ".tsv": partial(csv_rows, usual="\t"),
    ".conll": column_rows,
    ".txt": column_rows,
    ".parquet": parquet_rows,
}
