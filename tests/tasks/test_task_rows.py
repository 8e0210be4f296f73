"""Splits, labels, and the error of every bad cell: file, line, column, value, what to do."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwright.tasks import Row, Source, TaskError, task_from_files
from rankwright.tasks.errors import Where
from rankwright.tasks.labels import Labels
from rankwright.tasks.rows import digest
from rankwright.tasks.spelling import occurrences

PAIR = {"text_column": "a", "text_pair_column": "b", "label_column": "y"}
NUMBER = PAIR | {"kind": "regression"}
SETS = PAIR | {"kind": "multi_label"}
TAGS = {"tags_column": "tags"}
COMPLETION = {"prompt_column": "p", "completion_column": "c"}
MATHS = COMPLETION | {"metrics": ["exact_number"], "max_new_tokens": 8}
CHOICE = {"choices_column": "choices", "label_column": "y"}

# options, a good row, a bad row, the message after "file:2: "
BAD_ROWS = [
    (PAIR, {"a": "x", "b": "y", "y": 1}, {"a": "x", "B": "y", "y": 1},
     "there is no column 'b'; the columns are a, B, y."),
    (PAIR, {"a": "x", "b": "y", "y": 1}, {"a": "x", "b": " \n", "y": 1},
     r"column 'b' holds ' \n'; expected a text that is not empty. Fill the cell or remove"),
    (PAIR, {"a": "x", "b": "y", "y": 1}, {"a": "cut \ud83d", "b": "y", "y": 1},
     r"column 'a' holds 'cut \ud83d'; expected whole characters. Character 5, '\ud83d', is half"),
    (TAGS, {"tokens": ["x"], "tags": ["O"]}, {"tokens": ["x", "\ud83d"], "tags": ["O", "O"]},
     r"column 'tokens' holds '\ud83d'; expected whole characters. Character 1"),
    (PAIR, {"a": "x", "b": "y", "y": 1}, {"a": "long " * 400_000, "b": "y", "y": 1},
     "column 'a' holds 'long long long long long long long long long long long l...; expected at "
     "most 1,000,000 characters. It has 2,000,000, of which at most max_length tokens would"),
    (PAIR, {"a": "x", "b": "y", "y": 1}, {"a": 3, "b": "y", "y": 1},
     "column 'a' holds 3; expected a text. Write it as a string."),
    (PAIR, {"a": "x", "b": "y", "y": 1}, {"a": "x", "b": "y", "y": 0.5},
     "column 'y' holds 0.5; expected a class name. Write the class as a string or integer"),
    (PAIR, {"a": "x", "b": "y", "y": 1}, {"a": "x", "b": "y", "y": None},
     "column 'y' holds None; expected a class name."),
    (PAIR, {"a": "x", "b": "y", "y": "up"}, {"a": "x", "b": "y", "y": "upp"},
     "column 'y' holds 'upp'; expected one of the 1 labels up. Correct the cell, or list every"),
    (NUMBER, {"a": "x", "b": "y", "y": 1}, {"a": "x", "b": "y", "y": "high"},
     "column 'y' holds 'high'; expected a finite number. Write a number, or choose kind"),
    (NUMBER, {"a": "x", "b": "y", "y": 1}, {"a": "x", "b": "y", "y": float("nan")},
     "column 'y' holds nan; expected a finite number."),
    (NUMBER, {"a": "x", "b": "y", "y": 1}, {"a": "x", "b": "y", "y": 10**400},
     "column 'y' holds 1000000000"),
    (NUMBER, {"a": "x", "b": "y", "y": 1}, {"a": "x", "b": "y", "y": True},
     "column 'y' holds True; expected a finite number."),
    (SETS, {"a": "x", "b": "y", "y": ["u"]}, {"a": "x", "b": "y", "y": "u, v"},
     "column 'y' holds 'u, v'; expected one name, or names with ; or | between. Put ; between"),
    (SETS, {"a": "x", "b": "y", "y": ["u"]}, {"a": "x", "b": "y", "y": {"u": 1}},
     "column 'y' holds {'u': 1}; expected a list. Write it as a JSON list"),
    (SETS, {"a": "x", "b": "y", "y": ["u"]}, {"a": "x", "b": "y", "y": ["v"]},
     "column 'y' holds 'v'; expected one of the 1 labels u."),
    (TAGS, {"tokens": ["x"], "tags": ["O"]}, {"tokens": ["x", "y"], "tags": ["O"]},
     "column 'tags' has 1 tags for the 2 words of 'tokens'; expected one tag per word."),
    (TAGS, {"tokens": ["x"], "tags": ["O"]}, {"tokens": ["x"], "tags": ["PER"]},
     "column 'tags' holds 'PER'; expected O, B-type or I-type, for entity_f1. Write entities in"),
    (TAGS, {"tokens": ["x"], "tags": ["O"]}, {"tokens": ["x"], "tags": [7]},
     "column 'tags' holds '7'; expected O, B-type or I-type, for entity_f1. If the tags are ind"),
    (TAGS, {"tokens": ["x"], "tags": ["O"]}, {"tokens": ["x", "y"], "tags": ["O", "I-PER"]},
     "column 'tags' holds 'I-PER'; expected B-PER or I-PER before it, but found O."),
    (TAGS, {"tokens": ["x"], "tags": ["O"]}, {"tokens": ["x"], "tags": ["B-PER"]},
     "column 'tags' holds 'B-PER'; expected one of the 1 labels O."),
    (TAGS, {"tokens": ["x"], "tags": ["O"]}, {"tokens": ["x", ""], "tags": ["O", "O"]},
     "column 'tokens' holds ['x', '']; expected a list of texts that are not empty."),
    (TAGS, {"tokens": ["x"], "tags": ["O"]}, {"tokens": "x", "tags": ["O"]},
     "column 'tokens' holds 'x'; expected a list."),
    (COMPLETION, {"p": "x", "c": "y"}, {"p": "x", "c": ""},
     "column 'c' holds ''; expected a text that is not empty."),
    (MATHS, {"p": "x", "c": "#### 1"}, {"p": "x", "c": "one"},
     "column 'c' holds 'one'; expected a text with a final number. Write the number after ####"),
    (CHOICE, {"question": "x", "choices": ["a", "b"], "y": 1},
     {"question": "x", "choices": ["a"], "y": 0},
     "column 'choices' holds ['a']; expected at least two choices."),
    (CHOICE, {"question": "x", "choices": ["a", "b"], "y": "0"},
     {"question": "x", "choices": ["a", "b"], "y": 2},
     "column 'y' holds 2; expected the index of a choice, 0 to 1. Count the choices from 0."),
]  # fmt: skip


@pytest.mark.parametrize(
    ("split", "options", "good", "bad", "message"),
    [
        (split, *row)
        for row in BAD_ROWS
        for split in ("train", "validation")
        if split == "validation" or "labels" not in row[-1]  # training rows decide on labels
    ],
)
def test_a_bad_row_names_its_line(write, words, split, options, good, bad, message):
    files = {"train": write([good]), "validation": write([good], "validation.jsonl")}
    files[split] = write([good, bad], f"{split}.jsonl")
    with pytest.raises(TaskError) as error:
        task_from_files(**files, **options).prepare(words)
    assert str(error.value).startswith(f"{files[split]}:2: {message}")


def test_long_values_are_cut(write, words):
    rows = write([{"text": "x", "label": ["u" * 500]}])
    with pytest.raises(TaskError) as error:
        task_from_files(rows, validation=rows, label_column="label").prepare(words)
    assert len(str(error.value).removeprefix(str(rows))) < 250


def test_without_validation_data_a_share_is_needed(write):
    rows = write([{"text": "x", "label": 0}])
    with pytest.raises(TaskError, match="there is no validation data"):
        task_from_files(rows, label_column="label").load()
    with pytest.raises(TaskError, match=r"a share of 0\.5 of 1 rows with 1 diff.* leaves one"):
        task_from_files(rows, label_column="label", validation_share=0.5).load()


def test_a_missing_split_is_named(write):
    rows = write([{"text": "x", "label": n} for n in range(2)])
    splits = task_from_files(rows, validation=rows, label_column="label").load()
    with pytest.raises(TaskError, match="split 'test': the task has none; it has train, validatio"):
        splits["test"]


class Given(Source):
    """Rows that are simply given."""

    def read(self):
        return {"train": list(self.rows)}


def given_rows(texts, seed=0):
    source = Given(validation_share=0.3, seed=seed)
    rows = [Row(Where("x", n), {"text": text, "label": n}) for n, text in enumerate(texts, 1)]
    object.__setattr__(source, "rows", rows)
    return source


@settings(deadline=None, max_examples=20)
@given(texts=st.lists(st.text(max_size=3), min_size=30, max_size=60), seed=st.integers(0, 99))
def test_the_split_keeps_equal_inputs_together_and_rows_on_their_side(texts, seed):
    texts = [*texts, *(str(n) for n in range(60))]  # enough distinct ones for both sides
    splits = given_rows(texts, seed).load(["text"])
    train, validation = (
        {row["text"] for row in side} for side in (splits.train, splits.validation)
    )
    assert not train & validation
    assert len(splits.train) + len(splits.validation) == len(texts)
    fewer = given_rows(texts[5:], seed).load(["text"])
    assert {row["text"] for row in fewer.validation} <= validation


def test_the_share_is_about_kept_and_the_seed_matters():
    texts = [str(n) for n in range(2000)]
    parts = [
        {row["text"] for row in given_rows(texts, seed).load(["text"]).validation}
        for seed in (0, 0, 1)
    ]
    assert 540 < len(parts[0]) < 660
    assert parts[0] == parts[1] != parts[2]


def counted(names):
    return occurrences((name, Where("t.csv", line)) for line, name in enumerate(names, start=2))


@pytest.mark.parametrize(
    ("found", "names"),
    [
        (["10", "9", "1", "9"], ("1", "9", "10")),
        (["b", "a", "10"], ("10", "a", "b")),
        (["1", "-1"], ("-1", "1")),
        (["1" * 5000, "a"], ("1" * 5000, "a")),
    ],
)
def test_inferred_labels_are_in_a_fixed_order(found, names):
    assert Labels.inferred(counted(found)).names == names


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (["0.5", "1"], r"0\.5, 1 are numbers; expected names\. Choose kind regression"),
        (
            ["pos", "neg", " pos"],
            r"labels: ' pos' \(1, the first at t\.csv:4\) and 'pos' \(1, the first at t\.csv:2\) "
            r"differ in case or white space alone\. Write them alike, or list every label in lab",
        ),
        (["Spam", "spam", "spam"], r"'Spam' \(1, the first at t\.csv:2\) and 'spam' \(2, the fi"),
        (["New York", "NewYork"], "differ in case or white space alone"),
        (["a b", "a\xa0b"], "differ in case or white space alone"),
        (["\uff11", "1"], "differ in case or white space alone"),
        (["True", "true"], r"JSON's true and false are read as True and False"),
    ],
)
def test_doubtful_labels_are_refused_unless_they_are_listed(found, message):
    with pytest.raises(TaskError, match=message):
        Labels.inferred(counted(found))
    assert Labels(tuple(dict.fromkeys(found))).names == tuple(dict.fromkeys(found))


def test_a_json_boolean_beside_its_spelling_is_explained(write):
    path = write([{"text": "a", "label": True}, {"text": "b", "label": "true"}])
    with pytest.raises(
        TaskError, match=r"'True' \(1, .*:1\) and 'true' \(1, .*:2\) differ in case"
    ):
        task_from_files(path, validation=path, label_column="label").load()


def test_an_index_may_stand_for_a_name_unless_names_are_numbers():
    where = Where("x", 1)
    assert Labels(("no", "yes")).index("1", where, "y") == 1
    assert Labels(("1", "0")).index("1", where, "y") == 0
    with pytest.raises(TaskError, match="expected one of the 2 labels no, yes"):
        Labels(("no", "yes")).index("2", where, "y")


@pytest.mark.parametrize(
    ("labels", "held_out"),
    [(["food", "sport"], [1]), (["food", "sport", "1"], ["food"]), ([["food", "1"]], [[]])],
    ids=["held out", "among the training rows", "in a set"],
)
def test_an_index_needs_names_in_a_given_order(write, words, labels, held_out):
    kind = "multi_label" if isinstance(labels[0], list) else "sequence_classification"
    train = write([{"text": "a", "topic": label} for label in labels], "train.jsonl")
    other = write([{"text": "b", "topic": label} for label in held_out], "other.jsonl")
    options = {"validation": other, "label_column": "topic", "kind": kind}
    message = r"column 'topic' holds '1'; expected a name, as are food.* or list label_names in the"
    with pytest.raises(TaskError, match=message):
        task_from_files(train, **options).prepare(words)
    if "1" not in labels:
        task_from_files(train, **options, label_names=["food", "sport"]).prepare(words)


def test_a_digest_is_of_these_cells_in_this_order():
    rows = [Row(Where("f", n), {"text": str(n), "other": n}) for n in range(3)]
    known = digest(rows, ["text"])
    assert digest([Row(Where("g", 1), {"text": str(n)}) for n in range(3)], ["text"]) == known
    assert digest(rows[::-1], ["text"]) != known
    assert digest(rows, ["text", "other"]) != known


def test_tags_may_be_indices_of_names(write, words):
    rows = write([{"tokens": ["a", "b", "c"], "tags": [1, 2, "O"]}])
    named = {"tags_column": "tags", "label_names": ["O", "B-PER", "I-PER"]}
    task = task_from_files(rows, validation=rows, **named)
    prepared = task.prepare(words)
    assert [label for label in prepared.train[0]["labels"] if label >= 0] == [1, 2, 0]
    out = write([{"tokens": ["a"], "tags": [3]}], "out.jsonl")
    with pytest.raises(
        TaskError, match=r"holds '3'; expected O, B-type.* has 3 names, with the in"
    ):
        task_from_files(rows, validation=out, **named).prepare(words)


def test_parts_of_speech_need_a_metric_of_single_tags(write, words):
    path = write([{"tokens": ["a", "b", "c"], "tags": ["NOUN", "VERB", "NOUN"]}])
    with pytest.raises(TaskError, match=r"such as parts of speech, choose the metric tag_accur"):
        task_from_files(path, validation=path, tags_column="tags").prepare(words)
    for more in ({}, {"label_names": ["VERB", "NOUN", "ADJ"]}):
        task = task_from_files(
            path, validation=path, tags_column="tags", metrics="tag_accuracy", **more
        )
        prepared = task.prepare(words)
        assert [prepared.labels.names[label] for label in prepared.train["labels"][0]] == [
            *("NOUN", "VERB", "NOUN"),
        ]
        assert list(prepared.reported_metrics) == ["tag_accuracy"]
    both = {"metrics": ["tag_accuracy", "entity_f1"]}
    with pytest.raises(TaskError, match="holds 'NOUN'; expected O, B-type or I-type, for entity"):
        task_from_files(path, validation=path, tags_column="tags", **both).prepare(words)


def test_a_single_class_is_refused(write, words):
    rows = write([{"text": "a", "label": 1}, {"text": "b", "label": 1}])
    with pytest.raises(TaskError, match=r"column 'label': '1' is the only label; expected at leas"):
        task_from_files(rows, validation=rows, label_column="label").prepare(words)


def test_the_f1_of_class_1_is_of_two_classes(write, words):
    rows = write([{"text": name, "label": name} for name in "abc"])
    task = task_from_files(rows, validation=rows, label_column="label", metrics="binary_f1")
    with pytest.raises(TaskError, match=r"'binary_f1': .* there are 3: a, b, c\. Use macro_f1"):
        task.prepare(words)


def test_labels_must_be_distinct_and_there():
    with pytest.raises(TaskError, match="a name occurs more than once"):
        Labels(("a", "a"))
    with pytest.raises(TaskError, match="there is none"):
        Labels(())


def test_csv_cells_may_hold_lists_and_numbers(tmp_path, words):
    path = tmp_path / "t.csv"
    path.write_text('text,labels,y\na b,"[""u"", ""v""]",1.5\nc,[],2\n')
    sets = task_from_files(path, validation=path, kind="multi_label").prepare(words)
    assert sets.train["labels"][:] == [[1.0, 1.0], [0.0, 0.0]]
    numbers = task_from_files(path, validation=path, kind="regression", label_column="y")
    assert numbers.prepare(words).train["labels"][:] == [1.5, 2.0]
