"""The report's text: its numbers are those of the raw files, and everything is escaped."""

from __future__ import annotations

import dataclasses
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

import made_up
import rankwright
import raw_files
from rankwright.errors import MethodError
from rankwright.job.card import loading_section
from rankwright.study.records.folder import StudyFolder
from rankwright.study.records.records import RunRecord, StudyRecord, TaskRecord
from rankwright.study.report import (
    render_card,
    render_html,
    render_markdown,
    words,
    write_card,
    write_html,
)
from rankwright.study.report.results import MethodResults, StudyResults, compute_results

STYLE = Path(rankwright.__path__[0]) / "study/report/templates/style.css"


class Page(HTMLParser):
    """Tags with their attributes, the text of the page, and the rows of its tables.

    A cell of a row is its text with the value that it is sorted by.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[tuple[str, list[list[tuple[str, str | None]]]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self._open.append(tag)
        self.tags.append((tag, attributes))
        if tag == "table":
            self.tables.append((attributes.get("class") or "", []))
        elif tag == "tr":
            self.tables[-1][1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][1][-1].append(("", attributes.get("data-value")))

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass  # of an element that needs no end

    def handle_data(self, data: str) -> None:
        self.text += data
        if {"td", "th"} & set(self._open) and "svg" not in self._open:
            row = self.tables[-1][1][-1]
            row[-1] = (row[-1][0] + data, row[-1][1])

    def rows(self, table: str) -> list[dict[str, list[tuple[str, str | None]]]]:
        """The rows of every table of a class, by what is in their first cell."""
        return [
            {row[0][0]: row[1:] for row in rows if row}
            for name, rows in self.tables
            if name == table
        ]


@pytest.fixture(scope="module")
def page(found: StudyResults) -> Page:
    return Page(render_html(found))


def test_the_page_loads_nothing_from_the_network(page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in ("img", "iframe", "object", "embed", "form", "base")
        for name in ("src", "href", "action", "xlink:href", "poster", "srcset"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, value)
    style = STYLE.read_text(encoding="utf-8")
    assert "url(" not in style
    assert "@import" not in style
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_ids_are_unique_and_links_lead_to_them(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.tags:
        for name in ("href", "aria-labelledby"):
            target = attributes.get(name)
            if target and not target.startswith("data:"):
                assert target.removeprefix("#") in ids


def test_every_plot_has_a_text_alternative(page: Page) -> None:
    plots = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(plots) > 50
    for attributes in plots:
        named = attributes.get("aria-label") or attributes.get("aria-labelledby")
        assert named or attributes.get("role") == "presentation"


def number_cells(study: StudyFolder, task: str, method: str) -> list[tuple[str, float]]:
    """Text and sort value of the number cells of a method's row, from the raw files."""
    scale, digits = (1, 4) if task == "e2e" else (100, 1)
    cost = {
        name: raw_files.cost(study.path, task, method, name)
        for name in (
            "training_seconds", "median_step_seconds", "peak_memory_bytes",
            "trainable_parameters", "stored_parameters", "passes",
        )
    }  # fmt: skip
    mean, _, high = raw_files.interval(raw_files.values(study.path, task, method).values())
    difference, wide = difference_cell(study, task, method)
    return [
        (f"{scale * mean:.{digits}f} ± {scale * (high - mean):.{digits}f}", mean),
        (difference, wide),
        (f"{digits_3(cost['training_seconds'])} s", cost["training_seconds"]),
        (f"{digits_3(cost['median_step_seconds'])} s", cost["median_step_seconds"]),
        (f"{cost['peak_memory_bytes'] / 2**20:.0f} MiB", cost["peak_memory_bytes"]),
        (parameters(cost["trainable_parameters"]), cost["trainable_parameters"]),
        (parameters(cost["stored_parameters"]), cost["stored_parameters"]),
        (f"{cost['passes']:.0f}", cost["passes"]),
    ]


def difference_cell(study: StudyFolder, task: str, method: str) -> tuple[str, float]:
    if method == "dora":
        return "", 0.0
    scale, digits = (1, 4) if task == "e2e" else (100, 1)
    by_seed = raw_files.differences(study.path, task, method, "dora")
    if not by_seed.any():
        zero = f"{0:.{digits}f}"
        return f"{zero} ± {zero}", 0.0
    mean, _, high = raw_files.interval(by_seed)
    shown = f"{scale * mean:+.{digits}f} ± {scale * (high - mean):.{digits}f}"
    return shown.replace("-", "−"), mean


def digits_3(number: float) -> str:
    return f"{number:#.3g}".rstrip(".")


def parameters(number: float) -> str:
    if number < 1000:
        return str(int(number))
    return f"{digits_3(number / 1e6)} M" if number >= 1e6 else f"{digits_3(number / 1e3)} k"


def test_tables_have_the_numbers_of_the_raw_files(page: Page, study: StudyFolder) -> None:
    tables = dict(zip(("rte", "cola", "e2e"), page.rows("results"), strict=True))
    forests = dict(zip(tables, page.rows("forest"), strict=True))
    for task in tables:
        for method in made_up.QUALITY:
            seeds = " (4 of 5 seeds)" if (task, method) == ("cola", "full") else ""
            expected = number_cells(study, task, method)
            row = tables[task][method]
            found = [row[k] for k in (0, 2, 4, 5, 6, 7, 8, 9)]
            assert len(row) == 10
            texts = [text for text, _ in expected]
            texts[0] += seeds
            texts[1] = texts[1] or "baseline"
            assert [text for text, _ in found] == texts
            values = [float(value or "nan") for _, value in found]
            assert values == pytest.approx([value for _, value in expected], rel=1e-9)
            if method != "dora":
                assert forests[task][method][-1][0] == texts[1]


def test_forgetting_has_the_numbers_of_the_raw_files(page: Page, study: StudyFolder) -> None:
    (table,) = page.rows("forgetting")
    for method in made_up.QUALITY:
        records = [run["forgetting"] for run in raw_files.runs(study.path, "e2e", method)]
        mean, _, high = raw_files.interval([r["after"] - r["before"] for r in records])
        ((text, value),) = table[method]
        assert text == f"{mean:+.3f} ± {high - mean:.3f}"
        assert float(value or "nan") == pytest.approx(mean)


def test_the_summary_has_the_numbers_of_the_raw_files(
    found: StudyResults, study: StudyFolder
) -> None:
    text = render_markdown(found)
    for task in ("rte", "cola", "e2e"):
        section = re.search(rf"^## {task}$.*?(?=^## )", text, flags=re.MULTILINE | re.DOTALL)
        assert section is not None
        lines = [line for line in section[0].splitlines() if line.startswith("| ")]
        rows = {line[1]: line for line in ([c.strip() for c in r.split("|")] for r in lines)}
        for method in made_up.QUALITY:
            mean, difference, *costs = (shown for shown, _ in number_cells(study, task, method))
            seeds = len(raw_files.values(study.path, task, method))
            _, _, *row, _ = rows[method]
            assert row == [mean, difference, row[2], str(seeds), *costs]
    assert "\n\n\n" not in text
    assert found.study.command in text
    assert "3f" * 32 in text


def test_a_table_states_its_order(page: Page, found: StudyResults) -> None:
    sorted_by = [a["aria-sort"] for tag, a in page.tags if tag == "th" and "aria-sort" in a]
    assert [task.task.greater_is_better for task in found.tasks] == [True, True, False]
    assert sorted_by == ["descending", "descending", "ascending"]


def test_the_page_has_all_that_reproduction_needs(page: Page, found: StudyResults) -> None:
    for text in (
        found.study.command, "3f" * 32, "a7" * 32, "torch 2.13.0", "Seeds 0, 1, 2, 3, 4",
        *(run.command for run in found.runs), "cpu, 2 threads", "loss is NaN",
    ):  # fmt: skip
        assert text in page.text
    for task in found.tasks:
        for method in task.methods:
            rate = f"{method.runs[0].options['learning_rate']:.3g}"
            assert re.search(rf"on {task.task.task}: .*learning_rate = {rate}", page.text)


def test_unused_rows_are_reported(small: StudyFolder) -> None:
    task = dataclasses.asdict(small.study.tasks[0])
    task |= {"options": {"train_rows": 9, "eval_rows": 8}}
    task |= {"rows": {**task["rows"], "held_out": 77}}
    record = dataclasses.replace(small.study, tasks=(TaskRecord(**task),))
    record.save(small.description)
    found = compute_results(StudyFolder(small.path))
    for text in (render_html(found), render_markdown(found)):
        assert f"{task['rows']['train']:,}, 9 of them used" in text
        assert f"{task['rows']['validation']:,}, 8 of them used" in text
        assert "77, 8" not in text


def test_the_file_that_the_command_names_is_shown(small: StudyFolder) -> None:
    record = dataclasses.replace(small.study, file="# <why>\nmethods: [lora]")
    record.save(small.description)
    found = compute_results(StudyFolder(small.path))
    assert found.study.file == record.file
    assert "<pre><code># &lt;why&gt;\nmethods: [lora]</code></pre>" in render_html(found)
    assert "````yaml\n# <why>\nmethods: [lora]\n````\n" in render_markdown(found)


def test_the_same_files_give_the_same_bytes(study: StudyFolder, found: StudyResults) -> None:
    assert render_html(found) == render_html(compute_results(StudyFolder(study.path)))


def test_names_and_messages_are_escaped(small: StudyFolder) -> None:
    rename(small, "lora", "<script>alert(1)</script>|")
    found = compute_results(small)
    page = Page(render_html(found))
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "<script>alert(1)</script>|" in page.text
    assert "| <script>alert(1)</script>\\| |" in render_markdown(found)


def rename(folder: StudyFolder, old: str, new: str) -> None:
    """Rename a method of the study in every file."""
    record = StudyRecord.load(folder.description)
    methods = [dataclasses.replace(m, label=new) if m.label == old else m for m in record.methods]
    runs = [dataclasses.replace(r, label=new) if r.label == old else r for r in record.runs]
    for run in record.runs:
        if run.label == old:
            moved = dataclasses.replace(RunRecord.load(folder.record(run.name)), label=new)
            shutil.move(folder.examples_file(run.name), folder.examples_file(moved.name))
            folder.record(run.name).unlink()
            moved.save(folder.record(moved.name))
    dataclasses.replace(record, methods=tuple(methods), runs=tuple(runs)).save(folder.description)


@pytest.mark.parametrize(
    ("methods", "seeds"), [(("dora",), (0, 1)), (("dora", "lora"), (0,)), (("dora",), (7,))]
)
def test_a_small_study_has_a_report(
    tmp_path: Path, methods: tuple[str, ...], seeds: tuple[int, ...]
) -> None:
    folder = made_up.study(
        tmp_path, methods=methods, tasks=("rte",), seeds=seeds, rows=20, trials=1
    )
    found = compute_results(folder)
    for text in (render_html(found), render_markdown(found)):
        assert not re.search(r"\b(nan|inf|None)\b", text)
    if seeds == (0,):
        assert "with one seed: it has no interval; run more seeds." in render_markdown(found)


def test_one_seed_is_not_called_a_finding(tmp_path: Path) -> None:
    folder = made_up.study(
        tmp_path, methods=("dora", "lora", "full"), tasks=("rte",), seeds=(0,), rows=20, trials=0
    )
    found = compute_results(folder)
    short = words.in_short(found.tasks[0], found.baselines)
    assert re.fullmatch(
        r"one seed distinguishes nothing; run more seeds\. Differences to dora: "
        r"full \([−+\d.]+\), lora \([−+\d.]+\)\.",
        short,
    )
    assert short in render_html(found)


def test_a_method_with_one_seed_is_not_listed_as_tested(tmp_path: Path) -> None:
    lost = [("rte", "full", seed) for seed in (1, 2)] + [("rte", "bidora", s) for s in (0, 1, 2)]
    folder = made_up.study(
        tmp_path, methods=("dora", "lora", "full", "bidora"), tasks=("rte",), seeds=(0, 1, 2),
        rows=40, trials=0, unfinished=lost,
    )  # fmt: skip
    found = compute_results(folder)
    short = words.in_short(found.tasks[0], found.baselines)
    assert re.search(r"with only one seed, compared with dora: full \([−+\d.]+\)", short)
    assert not re.search(r"not distinguishable[^;]*full", short)
    open_runs = "Not finished, by method and seed: full 1, 2; bidora 0, 1, 2."
    assert open_runs in Page(render_html(found)).text
    assert open_runs in render_markdown(found)
    run, card = render_card(found)
    whole = next(method for method in found.tasks[0].methods if not method.missing)
    assert run.label == whole.label != "full"
    assert open_runs in card
    assert card.count("ended with an error: ") == len(found.failures) > 0
    with pytest.raises(MethodError, match=r"no method has finished all its seeds on rte; choose"):
        render_card(unfinished_only(found))


def unfinished_only(found: StudyResults) -> StudyResults:
    """The study with its unfinished methods only."""
    task = found.tasks[0]
    left = tuple(method for method in task.methods if method.missing)
    return dataclasses.replace(found, tasks=(dataclasses.replace(task, methods=left),))


def contrast(one: str, other: str) -> float:
    """WCAG's contrast ratio of two colours, #rrggbb or #rgb."""

    def luminance(colour: str) -> float:
        digits = colour.lstrip("#")
        digits = "".join(2 * d for d in digits) if len(digits) == 3 else digits
        parts = [int(digits[k : k + 2], 16) / 255 for k in (0, 2, 4)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_colours_have_enough_contrast_in_light_dark_and_print() -> None:
    schemes = [
        dict(re.findall(r"--(\w+): (#\w+)", block))
        for block in re.findall(r":root \{(.*?)\}", STYLE.read_text("utf-8"), flags=re.DOTALL)
    ]
    assert len(schemes) == 3
    for scheme in schemes:
        for name in ("ink", "soft", "ours", "worse"):  # texts: WCAG AA
            assert contrast(scheme[name], scheme["paper"]) >= 4.5, (name, scheme)
        assert contrast(scheme["base"], scheme["paper"]) >= 3  # lines and dots


def test_the_card_of_the_best_method(small: StudyFolder) -> None:
    found = compute_results(small)
    run, text = render_card(found)
    best = found.tasks[0].methods[0]
    assert (run.label, run.seed) == (best.label, 0)
    card = ModelCard(text)
    assert card.data.library_name == "peft"
    assert card.data.base_model == "sentence-transformers/all-MiniLM-L6-v2"
    (result,) = card.data.eval_results or []
    assert (result.metric_type, result.dataset_split) == ("accuracy", "validation")
    assert result.metric_value == raw_files.values(small.path, "rte", best.label)[0]
    assert "AutoModelForSequenceClassification" in text
    assert f"| **{best.label}** |" in text
    assert str(small.path) not in text
    assert "| seed | 0 |" in text
    assert "| learning_rate | 0.0005 |" in text


def test_a_card_has_the_labels_in_its_calls(small: StudyFolder) -> None:
    """The calls are those of the adapter's own README; old records name the missing argument."""
    found = compute_results(small)
    run, text = render_card(found)
    assert run.head is not None
    assert loading_section(run.head, "sentence-transformers/all-MiniLM-L6-v2") in text
    assert text.count("    num_labels=2,\n") == 2
    assert text.count("    id2label={0: 'entailment', 1: 'not_entailment'},\n") == 2
    for record in small.records():
        dataclasses.replace(record, head=None).save(small.record(record.name))
    _, old = render_card(compute_results(small))
    assert "num_labels=" not in old
    assert "also needs `num_labels`" in old


def test_a_card_of_multiple_choice_loads_a_language_model(small: StudyFolder) -> None:
    for record in small.records():
        kind = "multiple_choice"
        dataclasses.replace(record, head=None, kind=kind).save(small.record(record.name))
    _, text = render_card(compute_results(small))
    assert "AutoModelForCausalLM.from_pretrained" in text
    assert "AutoModelForMultipleChoice" not in text


def test_a_card_is_chosen_by_task_method_and_seed(
    found: StudyResults, study: StudyFolder, tmp_path: Path
) -> None:
    with pytest.raises(MethodError, match="choose one of the finished tasks, rte, cola, e2e"):
        render_card(found)
    with pytest.raises(
        MethodError, match=r"--method olora: no finished run on rte; there are full"
    ):
        render_card(found, task="rte", method="olora")
    with pytest.raises(
        MethodError, match=r"--seed 3: no finished run of full; there are 0, 1, 2, 4"
    ):
        render_card(found, task="cola", method="full", seed=3)
    run, text = render_card(found, task="e2e", method="bidora", seed=2)
    assert (run.task, run.label, run.seed) == ("e2e", "bidora", 2)
    assert "AutoModelForCausalLM" in text
    path = write_card(found, study, tmp_path / "new" / "card.md", task="e2e")
    assert path.read_text("utf-8") == render_card(found, task="e2e")[1]


def test_the_constant_baseline_is_a_row(found: StudyResults, page: Page) -> None:
    """It is in Markdown and on the card as well; e2e generates text and has no such baseline."""
    rte, cola, e2e = page.rows("results")
    task = found.tasks[0]
    assert task.constant is not None
    value = task.constant.metrics["accuracy"]
    assert rte["always “1”"][0] == (f"{100 * value:.1f}", str(value))
    assert cola["always “1”"][0] == ("0.0", "0.0")
    assert not any(name.startswith("always") for name in e2e)
    row = f"| *always “1”* | {100 * value:.1f} |"
    assert row in render_markdown(found)
    assert row in render_card(found, task="rte")[1]


def test_a_study_without_the_constant_baseline_has_no_such_row(found: StudyResults) -> None:
    def without(method: MethodResults) -> MethodResults:
        runs = (dataclasses.replace(run, constant=None, alike=None) for run in method.runs)
        return dataclasses.replace(method, runs=tuple(runs), stuck=())

    tasks = (
        dataclasses.replace(task, methods=tuple(map(without, task.methods))) for task in found.tasks
    )
    old = dataclasses.replace(found, tasks=tuple(tasks))
    for text in (render_html(old), render_markdown(old), render_card(old, task="rte")[1]):
        assert "always “" not in text
    assert "always “" in render_html(found)


def test_a_method_that_gives_every_row_the_same_answer_is_named(
    found: StudyResults,
) -> None:
    task = found.tasks[0]
    first, *others = task.methods
    stuck = dataclasses.replace(first, stuck=(0, 3))
    changed = dataclasses.replace(task, methods=(stuck, *others))
    sentence = f"{first.label} gives every row the same answer on 2 of 5 seeds: it has learned"
    figures_ = dataclasses.replace(found, tasks=(changed,))
    for text in (render_html(figures_), render_markdown(figures_), render_card(figures_)[1]):
        assert sentence in text
    assert words.stuck(task) == []


def test_a_report_replaces_the_last_one(small: StudyFolder) -> None:
    found = compute_results(small)
    for _ in range(2):
        path = write_html(found, small)
    assert path == small.path / "report.html"
    assert path.read_text("utf-8") == render_html(found)
    assert not list(small.path.glob(".*saving"))
