"""The files of a study in one parquet table, byte for byte.

A row is a file: its `path` below the study's folder, with forward slashes, and its `content`. Rows
are sorted by path, so the same files give the same table. Contents are stored unchanged: floats
stay exact, and digests of the files remain valid. Pages carry checksums, which are verified when
the table is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rankwright.errors import MethodError
from rankwright.job.files import replacing

SCHEMA = pa.schema(
    [pa.field("path", pa.string(), nullable=False), pa.field("content", pa.binary(), False)]
)
LEVEL = 19
"""Compression level of Zstandard: a study is packed once; 500 records take a second."""

_PATH = re.compile(r"(records|failures|tuning)/[^/\\]+\.(json|parquet)")


def write_packed(path: Path, files: Mapping[str, bytes]) -> None:
    """Write the table atomically.

    Args:
        path: The parquet file.
        files: Contents by path below the study's folder.
    """
    rows = sorted(files.items())
    table = pa.table([[name for name, _ in rows], [data for _, data in rows]], schema=SCHEMA)
    with replacing(path) as temporary:
        pq.write_table(
            table,
            temporary,
            compression="zstd",
            compression_level=LEVEL,
            use_dictionary=False,
            write_statistics=False,
            write_page_checksum=True,
        )


def read_packed(path: Path) -> dict[str, bytes]:
    """Return the contents of a table that `write_packed` wrote, by path below the study's folder.

    Raises:
        MethodError: The file is not such a table, or is damaged.
    """
    try:
        table = pq.ParquetFile(path, page_checksum_verification=True).read().cast(SCHEMA)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise MethodError(
            f"{path} is not a table of a study's records ({error}); expected the file that "
            "`rankwright report --format packed` wrote. Copy the study again"
        ) from error
    names = table.column("path").to_pylist()
    if wrong := [name for name in names if not _PATH.fullmatch(name)]:
        raise MethodError(
            f"{path} has a row with the path {wrong[0]!r}; expected JSON and parquet files in "
            "records/, failures/ and tuning/. Copy the study again"
        )
    return dict(zip(names, table.column("content").to_pylist(), strict=True))
