"""Names, YAML files and options to tasks; and what each mistake says."""

import datasets
import pytest

import rankwright.tasks
from rankwright.tasks import (
    KINDS,
    CausalLM,
    Files,
    Hub,
    MultipleChoice,
    SequenceClassification,
    TaskError,
    TokenClassification,
    load_task,
    task_from_files,
)
from rankwright.tasks.glue import TASKS as GLUE

REPOSITORY_EXAMPLES = ["rte", "cola", "stsb", "wnut17", "e2e"]


def test_all_is_what_is_imported():
    public = {
        name
        for name, value in vars(rankwright.tasks).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("rankwright")
    } | {"KINDS", "METRICS"}
    assert sorted(rankwright.tasks.__all__) == sorted(public)


def test_yaml_paths_start_at_root_and_root_at_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_DATA", str(tmp_path / "data"))
    spec = tmp_path / "my.yaml"
    spec.write_text(
        "kind: regression\nroot: ${SOME_DATA}/x\ntrain: a.jsonl\nvalidation: b.csv\n"
        "max_length: 16\n"
    )
    task = load_task(spec, max_length=32)
    assert (task.name, task.kind, task.max_length) == ("my", "regression", 32)
    assert task.source.train == tmp_path / "data" / "x" / "a.jsonl"
    spec.write_text("kind: regression\nroot: x\ntrain: a.jsonl\nvalidation_share: 0.5\n")
    assert load_task(spec).source == Files(train=tmp_path / "x" / "a.jsonl", validation_share=0.5)


def test_classes_may_be_called_yes_and_no(tmp_path):
    """PyYAML by itself reads True and False; true and false are still that."""
    spec = tmp_path / "asked.yaml"
    spec.write_text(
        "train: a.csv\nvalidation_share: 2e-1\nlabel_column: y\nlabel_names: [yes, no]\n"
    )
    task = load_task(spec)
    assert task.label_names == ("yes", "no")
    assert task.source.validation_share == 0.2
    spec.write_text("train: a.csv\nlabel_column: y\nlabel_names: [false, true]\n")
    assert load_task(spec, validation_share=0.2).label_names == ("False", "True")


@pytest.mark.parametrize("name", REPOSITORY_EXAMPLES)
def test_example_files(name, monkeypatch, pytestconfig):
    monkeypatch.setenv("RANKWRIGHT_DATA", "/data")
    task = load_task(pytestconfig.rootpath / "examples" / "tasks" / f"{name}.yaml")
    assert task.name == name
    assert task.source.train.as_posix() == f"/data/{name}/train.jsonl.gz"


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"label_column": "y"}, SequenceClassification),
        ({"tags_column": "t"}, TokenClassification),
        ({"prompt_column": "p", "completion_column": "c"}, CausalLM),
        ({"choices_column": "c", "label_column": "y"}, MultipleChoice),
    ],
)
def test_columns_tell_the_kind(options, kind):
    assert type(task_from_files("a/train.csv", validation_share=0.1, **options)) is kind


def test_a_data_file_is_a_spec():
    task = load_task("x/train.jsonl.gz", label_column="y", validation_share=0.1)
    assert task == task_from_files("x/train.jsonl.gz", label_column="y", validation_share=0.1)
    assert task.name == "train"
    assert task.columns == ("text", "y")


def test_the_primary_metric_comes_first():
    task = load_task("stdlib-docs", primary_metric="macro_f1")
    assert (task.metrics, task.primary_metric) == (("macro_f1", "accuracy"), "macro_f1")
    assert task.greater_is_better
    causal = task_from_files("t.csv", validation="v.csv", kind="causal_lm")
    assert not causal.greater_is_better


YAML_ERRORS = [
    ("kind: [", ":1: does not parse as YAML"),
    ("just text", ": expected lines of 'option: value'"),
    ("kind: regression\ntrain: a.csv\ntrain: b.csv\n", ":2: option train: it is set again in line"),
    ("kind: regresion\ntrain: a.csv\n", ":1: option kind: 'regresion' is unknown; expected one of"),
    (
        "kind: regression\ntrain: a.csv\ntext_colum: x\n",
        ":3: option text_colum: unknown here; expected one of delimiter, hub, hub_config, "
        "hub_splits, kind, label_column, max_length, metrics, name, primary_metric, root, seed, "
        "skip_bad_rows, test, text_column, text_pair_column, train, validation, validation_share. "
        "Did you mean 'text_column'?",
    ),
    ("kind: regression\nmax_length: long\n", ":2: option max_length: it is 'long'; expected an in"),
    ("kind: regression\nmax_length: true\n", ":2: option max_length: it is True; expected an int"),
    ("kind: regression\nmetrics: {a: 1}\n", ":2: option metrics: it is {'a': 1}; expected a list"),
    ("kind: regression\ntrain: {a: b}\n", ":2: option train: it is {'a': 'b'}; expected a list of"),
    ("kind: regression\ntrain: []\n", ":2: option train: it names no file."),
    ("kind: regression\ntrain: [a.csv]\ndelimiter: ab\n", "delimiter='ab': expected one character"),
    ("kind: regression\nhub_splits: x\n", ":2: option hub_splits: it is 'x'; expected a mapping"),
    ("kind: regression\nname: n\n", "options train and hub: expected exactly one"),
    (
        "hub: a/b\n",
        "option kind: not set, and no column option implies it; expected one of",
    ),
    ("kind: regression\nhub: a/b\ntrain: a.csv\n", "options train and hub: expected exactly one"),
    (
        "kind: regression\nhub: a/b\nvalidation: v.csv\n",
        ":3: option validation: a file (",  # it would be left out
    ),
    ("train: a.csv\n", "a.csv: no such file."),
    (
        "kind: regression\ntrain: a.csv\nroot: ${RANKWRIGHT_NO}/x\n",
        ":3: option root: '${RANKWRIGHT_NO}/x' names the environment variable RANKWRIGHT_NO, which "
        "is not set. Set it, for example: export RANKWRIGHT_NO=",
    ),
    ("kind: regression\ntrain: a.csv\nmetrics: [accuracy]\n", "does not fit a task of kind regres"),
    ("kind: regression\ntrain: a.csv\nmetrics: [rmse]\n", "metric 'rmse' is unknown; expected one"),
    ("kind: regression\ntrain: a.csv\nmetrics: []\n", "no metrics. Leave them out"),
    (
        "kind: regression\ntrain: a.csv\nprimary_metric: mse\n",
        "option primary_metric: 'mse' is not in metrics: pearson, spearman.",
    ),
    ("kind: regression\ntrain: a.csv\nmax_length: 2\n", "max_length=2: expected at least 8"),
    (
        "kind: regression\ntrain: a.csv\nvalidation_share: 1\n",
        "validation_share=1.0: expected a sh",
    ),
    (
        "kind: causal_lm\ntrain: a.csv\nprompt_template: x\nprompt_column: p\n",
        "prompt_template='x': expected {prompt",
    ),
    (
        "kind: causal_lm\ntrain: a.csv\nprompt_template: x\n",
        "there is no prompt to put into it",
    ),
    (
        "kind: causal_lm\ntrain: a.csv\nmetrics: bleu\n",
        "metrics bleu: to generate text the task ne",
    ),
]


@pytest.mark.parametrize(("text", "message"), YAML_ERRORS)
def test_a_bad_yaml_file_says_what_to_do(tmp_path, text, message):
    path = tmp_path / "my.yaml"
    path.write_text(text)
    with pytest.raises(TaskError) as error:
        load_task(path)
    assert message in str(error.value)
    if message.startswith(":"):
        assert str(error.value).startswith(f"{path}{message}")


def test_a_missing_yaml_file(tmp_path):
    with pytest.raises(TaskError, match=r"no\.yaml: no such file"):
        load_task(tmp_path / "no.yaml")


def test_a_yaml_file_that_is_not_text(tmp_path):
    (tmp_path / "x.yaml").write_bytes(b"\xff")
    with pytest.raises(TaskError, match=r"x\.yaml: cannot be read"):
        load_task(tmp_path / "x.yaml")


def test_an_unknown_spec_lists_the_valid_ones():
    with pytest.raises(TaskError, match=r"'stdlib' is unknown; expected stdlib-docs, glue/<name>"):
        load_task("stdlib")


def test_a_file_of_an_unknown_form_is_not_looked_for_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.xls").touch()
    with pytest.raises(TaskError, match=r"'data/train.xls' is unknown; .* or a data file"):
        load_task("data/train.xls", label_column="label")


def test_an_override_has_no_line_of_the_file(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text("kind: regression\ntrain: a.csv\nmax_length: 9\n")
    with pytest.raises(TaskError, match=r"^option max_length: it is 'x'; expected an integer"):
        load_task(path, max_length="x")


@pytest.mark.parametrize("name", GLUE)
def test_every_glue_preset_makes_a_task(name):
    task = load_task(f"glue/{name}", max_length=64)
    assert (task.source.path, task.source.config) == ("nyu-mll/glue", name)
    assert type(task) is KINDS["regression" if name == "stsb" else "sequence_classification"]
    assert "test" not in task.source.splits


def test_an_unknown_glue_task():
    with pytest.raises(TaskError, match=r"'glue/rtt' is unknown; .* one of cola, .* 'rte'\?"):
        load_task("glue/rtt")


def test_a_hub_data_set_gives_rows_with_their_numbers(monkeypatch):
    def loaded(path, config):
        assert (path, config) == ("nyu-mll/glue", "rte")
        split = datasets.Dataset.from_dict(
            {"sentence1": ["a"], "sentence2": ["b"], "label": [1]}, split="train"
        )
        return {"train": split, "validation": split}

    monkeypatch.setattr(datasets, "load_dataset", loaded)
    splits = load_task("glue/rte").load()
    assert splits.train[0]["label"] == 1
    assert str(splits.train[0].where) == "nyu-mll/glue (rte)[train], row 1"


def test_a_hub_data_set_without_the_split(monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: {"all": []})
    with pytest.raises(TaskError, match=r"a/b: no split 'train'; it has all\. Map the splits"):
        Hub(path="a/b").read()
    with pytest.raises(TaskError, match="no split 'dev'; it has all"):
        Hub(path="a/b", splits={"train": "all", "validation": "dev"}).read()


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Dataset scripts are no longer supported, but found b.py"),
        datasets.exceptions.DatasetGenerationError("a file of it is broken"),
    ],
)
def test_a_hub_data_set_that_cannot_be_read(monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(TaskError, match=f"hub data set a/b: cannot be loaded .*{error}"):
        Hub(path="a/b").read()


def test_an_unreachable_hub_is_reported():
    with pytest.raises(TaskError) as error:
        load_task("nobody/nothing", label_column="label").load()
    message = str(error.value)
    assert message.startswith("hub data set nobody/nothing: cannot be loaded (")
    assert "Check the name, and that the hub can be reached or the data set is cached" in message
