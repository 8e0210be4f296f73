"""Prompts out of several columns."""

import pytest

from rankwright.tasks import TaskError, task_from_files
from rankwright.tasks.errors import Where
from rankwright.tasks.rows import Row
from rankwright.tasks.template import Template

HERE = Where("train.jsonl", 7)


def row(**fields):
    return Row(HERE, fields)


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("{prompt}", "Add."),
        ("{task}", "Add."),
        ("{prompt}\nInput: {input}\n", "Add.\nInput: 1 and 2\n"),
        ("{input}{prompt}{input}", "1 and 2Add.1 and 2"),
        ('{{"a": 1}} {prompt}', '{"a": 1} Add.'),
        ("{{{prompt}}}", "{Add.}"),
        ("{{prompt}} {prompt}", "{prompt} Add."),
        ("{prompt} {no. of words}", "Add. 3"),
        ("{prompt}{ratio}", "Add.0.5"),
        ("{prompt}{nothing}{gap}.", "Add.."),
    ],
)
def test_cells_go_where_their_columns_are_named(text, filled):
    cells = {"no. of words": 3, "ratio": 0.5, "nothing": "", "gap": None}
    assert Template(text, "task").fill(row(task="Add.", input="1 and 2", **cells)) == filled


def test_braces_of_the_data_are_text():
    cells = row(task="{input} {{x}} {", input="{task} }}")
    assert Template("{prompt}|{input}", "task").fill(cells) == "{input} {{x}} {|{task} }}"


def test_the_main_column_keeps_its_name_beside_one_called_prompt():
    assert Template("{prompt}{task}", "task").fill(row(task="a", prompt="b")) == "aa"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no place", r"expected \{prompt\} or \{task\} in it"),
        ("{input}", r"expected \{prompt\} or \{task\} in it"),
        ("{{prompt}}", r"expected \{prompt\} or \{task\} in it"),
        ("{prompt} {}", r"'\{\}' at character 10 names no column"),
        ("{prompt} {", r"'\{' at character 10 names no column.* Write \{\{ and \}\} for braces"),
        ("} {prompt}", r"'\}' at character 1 names no column"),
    ],
)
def test_a_brace_that_names_nothing_is_refused(text, message):
    with pytest.raises(TaskError, match=message):
        Template(text, "task")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{prompt} {"a": 1}',
            r"^train\.jsonl:7: there is no column '\"a\": 1'.* write \{\{ and \}\}",
        ),
        ("{prompt}{inputs}", r"the columns are task, input, list\. Did you mean 'input'\?"),
        ("{prompt}{list}", r"column 'list' holds \['a'\]; expected a text or a number"),
    ],
)
def test_a_template_that_does_not_fit_the_row_is_refused(text, message):
    with pytest.raises(TaskError, match=message):
        Template(text, "task").fill(row(task="a", input="b", list=["a"]))


ALPACA = [
    {"instruction": "Name a colour.", "input": f"not {word}", "output": word}
    for word in "abcdefghijklmnop"
]


SHARE = {"prompt_column": "instruction", "completion_column": "output", "validation_share": 0.4}


def test_the_split_is_by_all_columns_that_the_template_shows(write):
    twice = [row | {"output": more} for row in ALPACA for more in ("this", "that")]
    task = task_from_files(write(twice), prompt_template="{prompt}\n{input}\n", **SHARE)
    assert task.input_columns == ("instruction", "input")
    splits = task.load()
    assert len(splits.train) + len(splits.validation) == 32
    assert not splits.notices
    assert not splits.seen(task.input_columns)
    assert task.shown(splits.train[0]).startswith("Name a colour.\nnot ")


def test_rows_of_one_prompt_are_held_out_by_their_completions(write):
    task = task_from_files(write(ALPACA), **SHARE)
    splits = task.load()
    (notice,) = splits.notices
    assert notice == (
        "all 16 prompts (instruction) are equal: rows are held out by their completions"
    )
    assert len(splits.train) + len(splits.validation) == 16
    said = [{row["output"] for row in split} for split in (splits.train, splits.validation)]
    assert not said[0] & said[1]


def test_rows_that_are_all_equal_cannot_be_divided(write):
    path = write([ALPACA[0]] * 3)
    message = (
        r"all 3 rows hold the same 'instruction', 'output': 'Name a colour\.', 'a', and rows of "
        r"equal input stay on one side of a split\. Add rows with other inputs, or name a valid"
    )
    with pytest.raises(TaskError, match=message):
        task_from_files(path, **SHARE).load()
    with pytest.raises(TaskError, match=r"all 3 rows hold the same 'instruction': .* Add rows"):
        task_from_files(
            path, kind="causal_lm", completion_column="instruction", validation_share=0.4
        ).load()


def test_the_error_about_equal_inputs_names_columns_that_differ(write):
    path = write([{"text": "a", "note": str(i), "label": i % 2} for i in range(4)])
    message = r"all 4 rows hold the same 'text': .*Rows differ in note, label: name an input column"
    with pytest.raises(TaskError, match=message):
        task_from_files(path, label_column="label", validation_share=0.4).load()


def test_choices_may_come_with_a_passage(write, words):
    rows = [
        {"question": "a", "passage": word, "choices": ["b", "c"], "label": n % 2}
        for n, word in enumerate("de")
    ]
    path = write(rows)
    task = task_from_files(
        path, validation=path, choices_column="choices", prompt_template="{passage} {question}"
    )
    assert task.input_columns == ("question", "passage", "choices")
    prepared = task.prepare(words)
    assert prepared.train["input_ids"][0] == [7, 4, 5, 2]  # d a b </s>


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"prompt_column": "p", "completion_column": "c", "prompt_template": "{prompt}{c}"},
            r"\{c\} shows the model the answer",
        ),
        (
            {"choices_column": "choices", "prompt_template": "{prompt}{label}"},
            r"\{label\} shows the model the answer",
        ),
        (
            {"kind": "causal_lm", "prompt_template": "{prompt}!"},
            r"there is no prompt to put into it\. Set prompt_column",
        ),
    ],
)
def test_a_template_that_cannot_be_meant_is_refused(options, message):
    with pytest.raises(TaskError, match=message):
        task_from_files("train.jsonl", validation="v.jsonl", **options)
