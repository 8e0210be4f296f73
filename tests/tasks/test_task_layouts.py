"""Columns of usual names tell the kind of a task."""

import json

import pytest

from rankwright.tasks import TaskError, load_task, task_from_files


@pytest.fixture
def file_with(tmp_path):
    """Writes a file whose rows have these cells, and gives its path."""

    def written(name="t.jsonl", **cells):
        path = tmp_path / name
        path.write_text(json.dumps(cells) + "\n")
        return path

    return written


CHOICES = ["a", "b"]


@pytest.mark.parametrize(
    ("cells", "kind", "columns"),
    [
        ({"text": "x", "label": "y"}, "sequence_classification", ("text", "label")),
        ({"sentence": "x", "label": 1}, "sequence_classification", ("sentence", "label")),
        ({"text": "x", "labels": ["y"]}, "multi_label", ("text", "labels")),
        ({"tokens": ["x"], "tags": ["O"]}, "token_classification", ("tokens", "tags")),
        ({"tokens": ["x"], "ner_tags": ["O"]}, "token_classification", ("tokens", "ner_tags")),
        (
            {"question": "x", "choices": CHOICES, "label": 0},
            "multiple_choice",
            ("question", "choices", "label"),
        ),
        (
            {"id": 1, "question_stem": "x", "choices": CHOICES, "answerKey": "A"},
            "multiple_choice",
            ("question_stem", "choices", "answerKey"),
        ),
        ({"prompt": "x", "completion": "y"}, "causal_lm", ("prompt", "completion")),
        ({"instruction": "x", "output": "y"}, "causal_lm", ("instruction", "output")),
        (
            {"instruction": "x", "input": "", "output": "y"},
            "causal_lm",
            ("instruction", "input", "output"),
        ),
        ({"text": "x"}, "causal_lm", ("text",)),
    ],
)
def test_usual_columns_tell_the_kind(file_with, cells, kind, columns):
    path = file_with(**cells)
    task = load_task(path, validation_share=0.5)
    assert (task.kind, task.columns) == (kind, columns)
    (note,) = task.source.notes
    assert note.startswith(f"{path}: the column")
    assert f" read as {kind}" in note


def test_the_model_sees_the_input_of_an_instruction(file_with):
    path = file_with(instruction="Add", input="1 and 2", output="3")
    task = task_from_files(path, validation=path)
    (row,) = task.load().train
    assert task.shown(row) == "Add\n1 and 2\n"
    assert "the columns instruction, output, input are read as causal_lm" in task.source.notes[0]
    assert task.references(row) == ["3"]


def test_columns_that_are_given_count_for_the_usual_ones(file_with):
    path = file_with(question="x", choices=CHOICES, key="A")
    task = task_from_files(path, validation=path, label_column="key")
    assert (task.kind, task.columns) == ("multiple_choice", ("question", "choices", "key"))
    path = file_with(body="x", label="y")
    task = task_from_files(path, validation=path, text_column="body")
    assert (task.kind, task.columns) == ("sequence_classification", ("body", "label"))


def test_a_kind_that_is_given_finds_its_usual_columns(file_with):
    path = file_with(question="x", choices=CHOICES, answerKey="A", label="unused", text="unused")
    task = task_from_files(path, validation=path, kind="multiple_choice", label_column="answerKey")
    assert task.columns == ("question", "choices", "answerKey")
    path = file_with(prompt="x", completion="y")
    task = task_from_files(path, validation=path, kind="causal_lm")
    assert task.columns == ("prompt", "completion")


def test_own_columns_of_a_kind_come_before_usual_ones(file_with):
    path = file_with(text="x", prompt="p", completion="c")
    task = task_from_files(path, validation=path, kind="causal_lm")
    assert task.columns == ("text",)
    assert task.source.notes == ()


def test_the_label_column_still_tells_classes(file_with):
    path = file_with(text="x", labels="y")
    task = task_from_files(path, validation=path, label_column="labels")
    assert task.kind == "sequence_classification"
    assert task.source.notes == ()


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (
            {"review": "x", "stars": 1},
            "the columns are review, stars, which do not",
        ),
        ({"review": "x", "stars": 1}, "Name them: --text-column, --label-column and, for pairs, -"),
        (
            {"question": "x", "sentence": "y", "label": 1},
            "the columns are question, sentence, ",
        ),
        ({"text": "x", "label": 1, "labels": [1]}, "may be sequence_classification or multi_label"),
        ({"messages": [{"role": "user"}]}, "the columns are messages. Conversations are not read"),
        ({"text:label": "x:1"}, "say what separates cells: --delimiter. Name them"),
    ],
)
def test_unknown_columns_are_listed_with_the_options_to_give(file_with, cells, message):
    path = file_with(**cells)
    with pytest.raises(TaskError) as error:
        task_from_files(path, validation=path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", ": the file has no rows"),
        ("t.csv", b"text,label\n", ": the file has no rows"),
        ("t.csv", "text,label\nGröße,1\nMaß,0\n".encode("latin-1"), "2 of 2 rows are bad"),
        ("t.csv", b"text,label\na,b,c\nd,e,f\n", "the row has 3 cells"),
        ("t.jsonl", b'[{"text": "x"}]\n', "Is the file one array? Then name it .json."),
        ("t.conll", b"1\ta\tNOUN\n2\tb\tVERB\n", "columns counts the words, as in CoNLL-U"),
    ],
)
def test_a_problem_of_all_rows_is_reported_instead_of_missing_columns(
    tmp_path, name, content, message
):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(TaskError) as error:
        task_from_files(path, validation=path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "the columns are" not in str(error.value)


def test_columns_may_be_known_late(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text("[1]\n" * 60 + '{"text": "x", "label": "a"}\n{"text": "y", "label": "b"}\n')
    task = task_from_files(path, validation=path, skip_bad_rows=True)
    assert len(task.load().train) == 2


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.json", "t.parquet", "t.conll", "t.csv.gz"])
def test_every_kind_of_file_is_looked_into(tmp_path, name):
    import gzip

    import pyarrow
    import pyarrow.parquet

    path = tmp_path / name
    cells = {"tokens": ["x"], "tags": ["O"]} if name == "t.conll" else {"text": "x", "label": "y"}
    if name == "t.parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([cells]), path)
    else:
        content = {
            "t.csv": "text,label\nx,y\n",
            "t.tsv": "text\tlabel\nx\ty\n",
            "t.json": json.dumps([cells]),
            "t.conll": "x O\n",
            "t.csv.gz": "text;label\nx;y\n",
        }[name].encode()
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    kind = "token_classification" if name == "t.conll" else "sequence_classification"
    assert task_from_files(path, validation=path).kind == kind


@pytest.mark.parametrize(
    ("name", "kind", "rows"),
    [
        ("alpaca.json", "causal_lm", 20),
        ("arc.jsonl", "multiple_choice", 40),
        ("choices_letters.jsonl", "multiple_choice", 40),
        ("conll.txt", "token_classification", 20),
        ("multi.csv", "multi_label", 20),
        ("semicolon_bom.csv", "sequence_classification", 40),
        ("tab.tsv", "sequence_classification", 40),
    ],
)
def test_shared_files_are_read_as_they_are(data_root, name, kind, rows):
    path = data_root.parent / "cases" / "files" / name
    if not path.is_file():
        pytest.skip("no cases/files beside the data sets")
    task = load_task(path, validation=path)
    assert (task.kind, len(task.load().train)) == (kind, rows)


def test_several_files_are_one_split(tmp_path):
    for number in range(3):
        rows = "".join(f"text {number}{n},{n % 2}\n" for n in range(4))
        (tmp_path / f"part-{number}.csv").write_text("text,label\n" + rows)
    (tmp_path / "part-1.csv").write_text("label;text\n0;other\n;\n")
    pattern = task_from_files(tmp_path / "part-*.csv", validation_share=0.4)
    assert pattern.name == "part"
    with pytest.raises(TaskError, match=r"part-1\.csv:3: column 'text' holds ''"):
        pattern.load()
    names = [tmp_path / "part-0.csv", str(tmp_path / "part-2.csv")]
    task = task_from_files(names, validation_share=0.4)
    splits = task.load()
    assert {row.where.path for row in splits.train} == set(map(str, names))
    assert len(splits.train) + len(splits.validation) == 8
    assert task.name == "part-0"
    options = tmp_path / "my.yaml"
    options.write_text("train: [part-0.csv, part-2.csv]\nvalidation_share: 0.4\n")
    assert load_task(options).load().train == splits.train


def test_a_name_with_brackets_is_a_name(tmp_path):
    path = tmp_path / "a[1].csv"
    path.write_text("text,label\nx,y\nz,w\n")
    assert len(task_from_files(path, validation=path).load().train) == 2


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["none-*.csv"], r"none-\*\.csv: no file matches"),
        (["t.csv", "t.*"], r"t\.csv: the file is named twice"),
    ],
)
def test_names_of_files_that_are_not_meant(tmp_path, names, message):
    (tmp_path / "t.csv").write_text("text,label\nx,y\n")
    with pytest.raises(TaskError, match=message):
        task_from_files([tmp_path / name for name in names], validation_share=0.5)


def test_the_delimiter_is_an_option(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("text~label\nx,y~1\nz~2\n")
    assert task_from_files(path, validation=path, delimiter="~").load().train[0]["text"] == "x,y"


def test_a_folder_is_not_a_file(tmp_path):
    with pytest.raises(TaskError, match="it is a folder; name its files, or a pattern"):
        task_from_files(tmp_path, validation_share=0.5)


def test_the_notice_about_one_column_is_singular(file_with):
    (note,) = task_from_files(file_with(text="x"), validation_share=0.5).source.notes
    assert note.endswith(": the column text is read as causal_lm")
