"""Reading data files: what is written comes back, and errors name file and line."""

import csv
import gzip
import io
import json

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwright.tasks.errors import TaskError
from rankwright.tasks.files import read_rows

CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
TABLE = st.lists(st.tuples(CELL, CELL), min_size=1, max_size=6)
unhurried = settings(deadline=None, max_examples=60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


def fields(path):
    return [dict(row.fields) for row in read_rows(path)]


@unhurried
@given(table=TABLE, zipped=st.booleans())
def test_jsonl_round_trip(folder, table, zipped):
    rows = [{"text": a, "pair": b} for a, b in table]
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path = folder / ("t.jsonl.gz" if zipped else "t.jsonl")
    path.write_bytes(gzip.compress(data) if zipped else data)
    assert fields(path) == rows


@unhurried
@given(table=TABLE, zipped=st.booleans())
def test_csv_round_trip_with_exact_lines(folder, table, zipped):
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(["text", "pair"])
    starts = []
    for cells in table:
        starts.append(buffer.getvalue().count("\n") + 1)
        writer.writerow(cells)
    data = buffer.getvalue().encode()
    path = folder / ("t.csv.gz" if zipped else "t.csv")
    path.write_bytes(gzip.compress(data) if zipped else data)
    rows = read_rows(path)
    assert [(row["text"], row["pair"]) for row in rows] == table
    assert [row.where.number for row in rows] == starts


def test_parquet_round_trip_with_lists(tmp_path):
    rows = [{"tokens": ["a", "b"], "label": 1}, {"tokens": ["c"], "label": 0}]
    path = tmp_path / "t.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    assert fields(path) == rows
    assert str(read_rows(path)[1].where) == f"{path}, row 2"


def test_blank_lines_and_a_byte_order_mark_are_skipped_and_counted(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\n\n  \n{"a": 2}')
    assert [str(row.where) for row in read_rows(path)] == [f"{path}:1", f"{path}:4"]


def test_a_csv_cell_may_be_a_whole_document(tmp_path):
    limit = csv.field_size_limit()
    path = tmp_path / "t.csv"
    path.write_text(f"text,label\n{'word ' * 30_000},a\n")
    assert len(fields(path)[0]["text"]) == 150_000
    assert csv.field_size_limit() == limit


ERRORS = [
    ("t.jsonl", b'{"a": 1}\n{"a": \n', ":2: the row does not parse as JSON"),
    ("t.jsonl", b'{"a": ' + b"9" * 5000 + b"}\n", ":1: the row does not parse as JSON (Exc"),
    (
        "t.jsonl",
        b'{"a": 1, "a": 2}\n',
        ":1: the row does not parse as JSON (the key 'a' occurs",
    ),
    ("t.jsonl", b"[" * 100_000 + b"\n", ":1: the row does not parse as JSON (maximum recursion"),
    ("t.jsonl", b'{"a": 1}\n[1, 2]\n', ":2: the row is [1, 2]; expected a JSON object"),
    ("t.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', ":2: byte 8 of the line is not UTF-8"),
    ("t.jsonl", b"\n\n", ": the file has no rows"),
    ("t.csv", b'a,b\n1,"x\ny"\n3\n', ":4: the row has 1 cells (['3']); expected 2"),
    ("t.csv", b'a,b\n1,"x"y\n', ":2: the row does not parse as CSV"),
    ("t.csv", b'a,b\n1,"x\n', ":2: the row does not parse as CSV"),
    ("t.csv", b"a,a\n1,2\n", ":1: the header names the column 'a' more than once"),
    ("t.csv", b"a,b\n", ": the file has no rows"),
    ("t.jsonl.gz", b"not gzip", ": cannot be read"),
    ("t.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 9, mtime=0)[:-9], ": cannot be read"),
    ("t.parquet", b"not parquet", ": cannot be read"),
    ("t.xlsx", b"a\tb\n", ": unknown extension '.xlsx'; expected one of .jsonl, .json, .csv, .tsv"),
    ("t.parquet.gz", b"", ": unknown extension '.parquet.gz'; expected one of .jsonl, .json"),
    ("t.tsv", b"a\tb\n", ": the file has no rows"),
    (
        "t.csv",
        b'a,b\n1,"x\n2,y\n',
        ":2: the row does not parse as CSV (unexpected end of data). A",
    ),
    ("t.csv", b"a,b\n1\xff,x\n", ":2: byte 2 of the line is not UTF-8"),
]


@pytest.mark.parametrize(("name", "content", "message"), ERRORS)
def test_a_bad_file_names_its_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(TaskError) as error:
        read_rows(path)
    assert f"{path}{message}" in str(error.value)


def test_a_missing_file(tmp_path, monkeypatch):
    """The current folder matters for a relative path only."""
    monkeypatch.chdir(tmp_path)
    for path, place in (("none.csv", f"; it is relative to {tmp_path}"), (tmp_path / "x.csv", "")):
        with pytest.raises(TaskError) as error:
            read_rows(path)
        assert str(error.value) == f"{path}: no such file. Check the path{place}."
