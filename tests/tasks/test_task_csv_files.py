"""Files of separated cells, as programs and people write them."""

import pytest

from rankwright.tasks import TaskError
from rankwright.tasks.bad_rows import BadRows
from rankwright.tasks.files import first_columns, parsed_rows, read_rows


def read(path, content, delimiter=None):
    """Rows as dicts, and what was said of the file."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    bad = BadRows()
    rows = bad.sift(parsed_rows(path, delimiter))
    bad.refuse()
    return [dict(row.fields) for row in rows], [n.removeprefix(f"{path}: ") for n in bad.notices]


ROWS = [{"text": "one, two; three", "label": "a"}, {"text": "four", "label": "b"}]
QUOTED = '"one, two; three"'


@pytest.mark.parametrize(
    ("name", "separator", "notes"),
    [
        ("t.csv", ",", []),
        ("t.csv", ";", ["cells are separated by semicolons"]),
        ("t.csv", "\t", ["cells are separated by tabs"]),
        ("t.csv", "|", ["cells are separated by vertical bars"]),
        ("t.tsv", "\t", []),
        ("t.tsv", ",", ["cells are separated by commas"]),
    ],
)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_delimiter_is_seen_in_the_header(tmp_path, name, separator, notes, mark, end):
    rows = [["text", "label"], [QUOTED, "a"], ["four", "b"]]
    content = mark + "".join(separator.join(row) + end for row in rows)
    assert read(tmp_path / name, content) == (ROWS, notes)
    assert first_columns(tmp_path / name) == ("text", "label")


def test_lines_may_end_as_on_old_macs(tmp_path):
    assert read(tmp_path / "t.csv", f"text,label\r{QUOTED},a\rfour,b\r") == (ROWS, [])


@pytest.mark.parametrize("header", [",text,label,,", "text,label,,,"])
def test_columns_without_a_name_are_left_out(tmp_path, header):
    cells = {"text": "four", "label": "b"}
    row = ",".join(cells.get(name, "0") for name in header.split(","))
    found = read(tmp_path / "t.csv", f"{header}\n{row}\n")
    assert found == ([cells], ["columns without a name are left out"])


def test_utf_16_as_spreadsheets_save_it_is_read(tmp_path):
    content = f"text\tlabel\r\n{QUOTED}\ta\r\nfour\tb\r\n".encode("utf-16")
    assert read(tmp_path / "t.csv", content) == (ROWS, ["cells are separated by tabs"])


def test_rows_tell_where_the_header_does_not(tmp_path):
    rows, notes = read(tmp_path / "t.csv", 'id;text, cleaned\n1;"a, b"\n2;c\n')
    assert rows == [{"id": "1", "text, cleaned": "a, b"}, {"id": "2", "text, cleaned": "c"}]
    assert notes == ["cells are separated by semicolons"]
    rows, notes = read(tmp_path / "t.csv", "id,text;raw\n1,a;b\n2,c\n")
    assert rows == [{"id": "1", "text;raw": "a;b"}, {"id": "2", "text;raw": "c"}]
    assert notes == []


def test_an_ambiguous_delimiter_is_refused(tmp_path):
    path = tmp_path / "t.csv"
    content = "a;b,c\n1;2,3\n4;5,6\n"
    with pytest.raises(TaskError, match=r"t\.csv:1: the header is 'a;b,c', and cells may be separ"):
        read(path, content)
    assert read(path, content, ";")[0] == [{"a": "1", "b,c": "2,3"}, {"a": "4", "b,c": "5,6"}]
    assert read(path, content, ",")[0] == [{"a;b": "1;2", "c": "3"}, {"a;b": "4;5", "c": "6"}]


def test_a_single_column_may_hold_anything_but_commas(tmp_path):
    assert read(tmp_path / "t.csv", "text\na; b\nc|d\n") == (
        [{"text": "a; b"}, {"text": "c|d"}],
        [],
    )
    with pytest.raises(TaskError, match=r"the row has 2 cells .* Quote cells that hold commas"):
        read(tmp_path / "t.csv", "text\na, b\nc\n")


def test_spaces_before_a_quote(tmp_path):
    content = 'text, label\n"a, b", "x"\nc, "y ""z"""\n'
    rows, notes = read(tmp_path / "t.csv", content)
    assert rows == [{"text": "a, b", "label": "x"}, {"text": "c", "label": 'y "z"'}]
    assert notes == ["spaces before a cell are left out"]


def test_other_spaces_stay(tmp_path):
    content = 'text,label\n" a, ""b""", x\n'
    assert read(tmp_path / "t.csv", content) == ([{"text": ' a, "b"', "label": " x"}], [])


def test_quotes_between_tabs_are_text_where_they_do_not_enclose_cells(tmp_path):
    path = tmp_path / "t.tsv"
    rows, notes = read(path, 'text\tlabel\n"Oh no\t0\nshe said "hi"\t1\nwow"\t0\n')
    assert [row["text"] for row in rows] == ['"Oh no', 'she said "hi"', 'wow"']
    assert notes == ["quotes are part of the text"]
    rows, notes = read(path, 'text\tlabel\n"Oh ""no"""\t0\n"a\nc"\t1\n')
    assert [row["text"] for row in rows] == ['Oh "no"', "a\nc"]
    assert notes == []


def test_the_delimiter_may_be_given(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("text~label\na,b~1\n")
    assert dict(read_rows(path, "~")[0].fields) == {"text": "a,b", "label": "1"}
