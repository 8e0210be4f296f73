"""JSON: an object a line, or one array."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwright.tasks import TaskError, task_from_files
from rankwright.tasks.files import read_rows

CELL = st.one_of(st.text(max_size=8), st.integers(), st.none(), st.lists(st.booleans(), max_size=2))
TABLE = st.lists(st.dictionaries(st.text(max_size=3), CELL, max_size=3), min_size=1, max_size=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("json")


@settings(deadline=None, max_examples=60)
@given(table=TABLE, indent=st.sampled_from([None, 0, 1, 4]))
def test_an_array_round_trip(folder, table, indent):
    path = folder / "t.json"
    path.write_text(json.dumps(table, indent=indent), encoding="utf-8")
    assert [dict(row.fields) for row in read_rows(path)] == table


def test_rows_of_an_array_have_lines(tmp_path):
    path = tmp_path / "t.json"
    path.write_text('\ufeff\n[{"a": 1}, {"a": 2},\n {\n"a": 3},\n\n{"a": "\\n"}]\n', "utf-8")
    assert [row.where.number for row in read_rows(path)] == [2, 2, 3, 6]


def test_lines_may_be_called_json(tmp_path):
    path = tmp_path / "t.json"
    path.write_text('\n{"a": 1}\n{"a": 2}\n')
    assert [(row["a"], row.where.number) for row in read_rows(path)] == [(1, 2), (2, 3)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"a": 1}, {"a" 2}]', ":1: the array does not parse as JSON (Expecting ':' delimiter"),
        ('[{"a": 1}\n{"a": 2}]', ":1: the array does not parse as JSON (Expecting ',' or ']'"),
        ('[{"a": 1},\n{"a": 2}', ":2: the array does not parse as JSON (Expecting ',' or ']'"),
        ('[{"a": 1},\n]', ":2: the array does not parse as JSON (Expecting value"),
        ('[{"a": 1, "a": 2}]', ":1: the array does not parse as JSON (the key 'a' occurs more"),
        ('[{"a": 1},\n2, "b"]', ":2: the row is 2; expected a JSON object"),
        ("[]", ": the file has no rows"),
        ('[{"a": 1}] [{"a": 2}]', ": there is text after the end of the array"),
        ('{\n"data": [{"a": 1}]\n}', ": expected an array of objects such as"),
        ("3\n", ": expected an array of objects such as"),
        ("\n", ": expected an array of objects such as"),
        ("[" * 100_000, ":1: the array does not parse as JSON (maximum recursion"),
    ],
)
def test_errors_of_an_array(tmp_path, content, message):
    path = tmp_path / "t.json"
    path.write_text(content)
    with pytest.raises(TaskError) as error:
        read_rows(path)
    assert f"{path}{message}" in str(error.value)


@pytest.mark.parametrize("name", ["t.jsonl", "t.json"])
def test_choices_within_a_question_are_columns(tmp_path, name):
    choices = [{"text": "sand", "label": "A"}, {"text": "rain", "label": "B"}]
    row = {"question": {"stem": "What is wet?", "choices": choices}, "answerKey": "B"}
    path = tmp_path / name
    path.write_text(json.dumps(row), encoding="utf-8")
    (read,) = read_rows(path)
    assert (read["question"], read["choices"]) == ("What is wet?", choices)
    task = task_from_files(path, validation=path)
    assert (task.kind, task.answer(task.load().train[0])) == ("multiple_choice", 1)


def test_only_lines_may_be_renamed_to_an_array(tmp_path):
    path = tmp_path / "t.json"
    path.write_text('[[{"text": "x"}]]', encoding="utf-8")
    with pytest.raises(TaskError, match="expected a JSON object") as error:
        read_rows(path)
    assert "name it .json" not in str(error.value)
