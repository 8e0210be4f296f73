"""Files of taggers: a word a line, in columns."""

import pytest

from rankwright.tasks import TaskError
from rankwright.tasks.bad_rows import BadRows
from rankwright.tasks.files import first_columns, parsed_rows

ANNA = {"tokens": ["Anna", "lives", "."], "tags": ["B-PER", "O", "O"]}
OSLO = {"tokens": ["Oslo"], "tags": ["B-LOC"]}


def read(path, content):
    path.write_text(content, encoding="utf-8")
    bad = BadRows()
    rows = bad.sift(parsed_rows(path))
    bad.refuse()
    return rows, [note.removeprefix(f"{path}: ") for note in bad.notices]


def words_and_tags(rows):
    return [{name: row[name] for name in ("tokens", "tags")} for row in rows]


FORMS = {
    "spaces": "Anna B-PER\nlives O\n. O\n\nOslo B-LOC\n",
    "tabs": "Anna\tB-PER\nlives\tO\n.\tO\n\nOslo\tB-LOC\n\n",
    "windows": "Anna B-PER\r\nlives O\r\n. O\r\n\r\nOslo B-LOC\r\n",
    "blank lines": "\n\nAnna B-PER\nlives O\n. O\n \n\n\nOslo B-LOC\n\n\n",
    "marks": "-DOCSTART- O\n\nAnna B-PER\nlives O\n. O\n\n-DOCSTART- O\n\nOslo B-LOC\n",
    "four columns": "-DOCSTART- -X- -X- O\n\nAnna NNP B-NP B-PER\nlives VBZ B-VP O\n. . O O\n\n"
    "Oslo NNP B-NP B-LOC\n",
    "comments": "# sentence = 1\nAnna B-PER\nlives O\n. O\n\n# sentence = 2\nOslo B-LOC\n",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["t.conll", "t.txt"])
def test_sentences_are_rows(tmp_path, name, form):
    rows, (note,) = read(tmp_path / name, FORMS[form])
    assert words_and_tags(rows) == [ANNA, OSLO]
    assert note.startswith("read as 2 sentences in ")
    starts = {row.where.number: row["tokens"][0] for row in rows}
    lines = FORMS[form].split("\n")
    assert all(lines[number - 1].startswith(word) for number, word in starts.items())
    assert "tokens" in first_columns(tmp_path / name)


def test_every_column_has_its_number(tmp_path):
    rows, (note,) = read(tmp_path / "t.conll", FORMS["four columns"])
    assert rows[0]["2"] == ["NNP", "VBZ", "."]
    assert note.endswith("words are column 1 and tags column 4")


def test_columns_of_numbered_words_have_to_be_named(tmp_path):
    content = "1\tAnna\tNOUN\t_\n2\tlives\tVERB\t_\n\n1\tOslo\tNOUN\t_\n"
    rows, notes = read(tmp_path / "t.conll", content)
    assert list(rows[0].fields) == ["1", "2", "3", "4"]
    assert rows[0]["3"] == ["NOUN", "VERB"]
    assert notes == []


def test_a_tagged_hash_is_a_word(tmp_path):
    rows, _ = read(tmp_path / "t.conll", "#\tO\n#oslo\tB-LOC\n")
    assert words_and_tags(rows) == [{"tokens": ["#", "#oslo"], "tags": ["O", "B-LOC"]}]


def test_a_comment_before_all_words_does_not_set_the_number_of_columns(tmp_path):
    rows, _ = read(tmp_path / "t.conll", "#begin document (a)\n" + "Oslo\tB-LOC\n" * 12)
    assert words_and_tags(rows) == [{"tokens": ["Oslo"] * 12, "tags": ["B-LOC"] * 12}]


def test_a_line_without_a_tag_is_a_bad_row(tmp_path):
    path = tmp_path / "t.conll"
    with pytest.raises(TaskError) as error:
        read(path, FORMS["spaces"] * 5 + "\nBergen B-LOC\nlies\n\n" + FORMS["spaces"])
    assert str(error.value).startswith(
        f"{path}:28: the line has 1 columns ('lies'); expected 2, as in the others."
    )


@pytest.mark.parametrize(
    "content", ["Once upon a time\nthere was a fox in the wood.\n", "word\nword\n"]
)
def test_plain_text_is_not_a_column_file(tmp_path, content):
    with pytest.raises(TaskError, match=r"a word and its tag in every line.* \.jsonl file"):
        read(tmp_path / "t.txt", content)
