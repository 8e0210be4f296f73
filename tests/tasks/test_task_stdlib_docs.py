"""The built-in task: nothing leaks, nothing is counted twice, and every run has the same rows."""

import sys

import pytest

from rankwright.tasks import StdlibDocs, TaskError, load_task
from rankwright.tasks.stdlib_docs import PACKAGES, docstrings, mask_name, source_files


@pytest.fixture(scope="module")
def splits():
    return load_task("stdlib-docs").load()


@pytest.fixture(scope="module")
def rows(splits):
    return [*splits.train, *splits.validation]


def test_there_are_about_two_thousand_rows_of_sixteen_packages(splits, rows):
    assert {row["package"] for row in rows} == set(PACKAGES)
    assert {row["package"] for row in splits.validation} == set(PACKAGES)
    if sys.version_info[:2] == (3, 11):
        assert 1900 < len(rows) < 2200
    assert 0.17 < len(splits.validation) / len(rows) < 0.23


def test_no_text_occurs_twice_or_holds_its_own_name(rows):
    texts = [row["text"] for row in rows]
    assert len(set(texts)) == len(texts)
    for row in rows:
        assert row["package"] not in row["text"].lower()
        assert len(row["text"].split()) >= 6  # a name of several words became one mask


def test_no_test_package_is_read(rows):
    assert not [row for row in rows if "/test" in row.where.path]


def test_rows_are_the_same_every_time(splits):
    assert load_task("stdlib-docs").load() == splits


def test_masking():
    assert mask_name("HTTPServer for Http", "http") == "[MASK]Server for [MASK]"
    assert mask_name("e.mail", "email") == "e.mail"


LIBRARY = {
    "http/__init__.py": '"""one two three four five six seven eight"""',
    "http/tests/test_x.py": '"""test two three four five six seven eight"""',
    "http/b.py": 'class A:\n  def f(self):\n    """HTTP two three four five\n    six seven 8"""\n',
    "xml.py": '"""one two three four five six seven eight"""\nx = 1',
    "datetime.py": '"""wrapper"""',
    "_pydatetime.py": '"""pure"""',
}


@pytest.fixture
def library(tmp_path):
    for name, text in LIBRARY.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_docstrings_come_with_their_place(library):
    found = [(text, str(where)) for text, where in docstrings(library, "http")]
    assert found == [
        ("one two three four five six seven eight", "http/__init__.py:1"),
        ("HTTP two three four five\nsix seven 8", "http/b.py:3"),
    ]


def test_a_newer_python_keeps_datetime_elsewhere(library):
    assert source_files(library, "datetime") == [library / "_pydatetime.py"]
    (library / "_pydatetime.py").unlink()
    assert source_files(library, "datetime") == [library / "datetime.py"]


def test_a_library_without_sources_is_refused(library):
    with pytest.raises(TaskError, match=r"no source of the standard-library package 'asyncio'"):
        StdlibDocs(library=library).read()


def test_a_text_of_two_packages_is_left_out(library, monkeypatch):
    monkeypatch.setattr("rankwright.tasks.stdlib_docs.PACKAGES", ("http", "xml"))
    texts = [row["text"] for row in StdlibDocs(library=library).read()["train"]]
    assert texts == ["[MASK] two three four five\nsix seven 8"]
