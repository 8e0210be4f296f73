"""Results of a study, compared with results that are computed from its files independently."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

import made_up
import raw_files
from rankwright.errors import MethodError
from rankwright.study.records.examples import Examples
from rankwright.study.records.folder import StudyFolder
from rankwright.study.report import render_html, render_markdown, words
from rankwright.study.report.results import MethodResults, StudyResults, compute_results
from rankwright.study.statistics import holm, signed_rank

COSTS = {
    "training_seconds": "training_seconds",
    "step_seconds": "median_step_seconds",
    "peak_memory_bytes": "peak_memory_bytes",
    "trainable_parameters": "trainable_parameters",
    "stored_parameters": "stored_parameters",
    "passes": "passes",
}


def every_method(found: StudyResults) -> list[tuple[str, MethodResults]]:
    return [(task.task.task, method) for task in found.tasks for method in task.methods]


def test_means_intervals_and_costs_are_those_of_the_files(
    study: StudyFolder, found: StudyResults
) -> None:
    assert len(every_method(found)) == 21
    for task, method in every_method(found):
        mean, low, high = raw_files.interval(
            raw_files.values(study.path, task, method.label).values()
        )
        assert (method.mean.mean, method.mean.low, method.mean.high) == pytest.approx(
            (mean, low, high), rel=1e-12
        )
        for ours, theirs in COSTS.items():
            expected = raw_files.cost(study.path, task, method.label, theirs)
            assert getattr(method, ours) == pytest.approx(expected)


def test_differences_and_p_values_are_those_of_the_files(
    study: StudyFolder, found: StudyResults
) -> None:
    for task in found.tasks:
        p_values = {}
        for method in task.methods:
            if method.verdict is None:
                assert method.label == "dora"
                continue
            by_seed = raw_files.differences(study.path, task.task.task, method.label, "dora")
            assert method.verdict.difference.by_seed == pytest.approx(by_seed.tolist())
            if by_seed.any():
                p_values[method.label] = scipy.stats.ttest_1samp(by_seed, 0).pvalue
            else:
                p_values[method.label] = 1.0
        smallest = min(p_values, key=p_values.__getitem__)
        verdict = next(m.verdict for m in task.methods if m.label == smallest)
        assert verdict is not None
        assert verdict.p_value == pytest.approx(min(1, 6 * p_values[smallest]), rel=1e-6)


@pytest.fixture
def several(tmp_path: Path) -> StudyFolder:
    """LoRA is the baseline; BiDoRA is compared with DoRA."""
    return made_up.study(
        tmp_path / "several", methods=("lora", "dora", "bidora", "xgblora"),
        tasks=("rte", "cola"), rows=40, trials=0, against={"bidora": "dora", "dora": "lora"},
        baseline="lora",
    )  # fmt: skip


PAIRS = {"dora": "lora", "bidora": "dora", "xgblora": "lora"}


def test_each_method_is_compared_with_its_own_baseline(several: StudyFolder) -> None:
    found = compute_results(several)
    assert found.study.against == PAIRS
    assert found.baselines == ["lora", "dora"]
    for task in found.tasks:
        p_values = {}
        for method in task.methods:
            if method.label == "lora":
                assert method.verdict is None
                continue
            assert method.verdict is not None
            assert method.verdict.baseline == PAIRS[method.label]
            by_seed = raw_files.differences(
                several.path, task.task.task, method.label, PAIRS[method.label]
            )
            assert method.verdict.difference.by_seed == pytest.approx(by_seed.tolist())
            p_values[method.label] = scipy.stats.ttest_1samp(by_seed, 0).pvalue
        corrected = holm(p_values)  # over the three comparisons
        for method in task.methods:
            if method.verdict is not None:
                assert method.verdict.p_value == pytest.approx(corrected[method.label], rel=1e-6)
                assert method.verdict.methods == 3
    assert {over.label: over.against for over in found.over_tasks} == PAIRS


def test_all_methods_can_be_compared_with_another_baseline(several: StudyFolder) -> None:
    found = compute_results(several, "dora")
    assert found.study.against == {"lora": "dora", "bidora": "dora", "xgblora": "dora"}
    (verdict,) = [m.verdict for m in found.tasks[0].methods if m.label == "lora"]
    assert verdict is not None
    turned = next(m.verdict for m in compute_results(several).tasks[0].methods if m.label == "dora")
    assert turned is not None
    assert verdict.difference.by_seed == tuple(-d for d in turned.difference.by_seed)
    assert several.study.baseline == "lora"
    with pytest.raises(MethodError, match="baseline = 'olora': expected one of lora, dora, bidora"):
        compute_results(several, "olora")


def test_a_report_names_the_baseline_of_each_method(several: StudyFolder) -> None:
    found = compute_results(several)
    page, text = render_html(found), render_markdown(found)
    for shown in (page, text):
        assert "Compared with lora; bidora with dora." in shown
        assert "bidora − dora = " in shown
        assert "xgblora − lora = " in shown
        assert ">− lora<" not in shown
    assert re.search(r"<h3 [^>]*>Difference</h3>", page)
    assert '<tr><th scope="row">bidora − dora</th>' in page
    assert re.search(r"\| bidora \| [\d.± ]+ \| [−+\d.± ]+ to dora \|", text)
    assert "Compared with dora." in render_html(compute_results(several, "dora"))


def test_the_best_comes_first(found: StudyResults) -> None:
    for task in found.tasks:
        means = [method.mean.mean for method in task.methods]
        assert means == sorted(means, reverse=task.task.greater_is_better)


def test_one_method_under_two_names_is_not_distinguishable(found: StudyResults) -> None:
    twins = [method for _, method in every_method(found) if method.label == "dora_again"]
    assert len(twins) == 3
    for twin in twins:
        assert twin.verdict is not None
        assert twin.verdict.finding == "not distinguishable"
        assert not any(twin.verdict.difference.by_seed)
        assert twin.verdict.difference.over_rows is not None
        assert twin.verdict.difference.over_rows.half_width == 0


def test_methods_are_compared_on_the_seeds_that_both_have(found: StudyResults) -> None:
    full = next(m for task, m in every_method(found) if (task, m.label) == ("cola", "full"))
    assert full.missing == (3,)
    assert full.verdict is not None
    assert len(full.verdict.difference.by_seed) == 4
    assert found.finished == 104
    assert [failure.seed for failure in found.failures] == [3]


def test_wilcoxon_counts_a_smaller_loss_as_ahead(found: StudyResults) -> None:
    over = {item.label: item.test for item in found.over_tasks}
    assert (over["full"].won, over["head-only"].won) == (3, 0)
    assert over["full"].p_value == pytest.approx(0.25)


def test_metrics_in_different_units_count_by_sign(tmp_path: Path) -> None:
    """Ranked by size, points of accuracy and nats would be ordered by their units."""
    folder = made_up.study(
        tmp_path, methods=("dora", "lora"), tasks=("rte", "cola", "e2e"), rows=30, trials=0
    )
    units = {task.unit for task in compute_results(folder).tasks}
    assert len(units) == 2
    alike = made_up.study(
        tmp_path / "alike", methods=("dora", "lora"), tasks=("rte", "cola"), rows=30, trials=0
    )
    for study, scale in ((folder, np.sign), (alike, np.asarray)):
        found = compute_results(study)
        expected = [
            method.verdict.difference.over_seeds.mean * (1 if task.task.greater_is_better else -1)
            for task in found.tasks
            for method in task.methods
            if method.verdict
        ]
        assert found.over_tasks[0].test == signed_rank(scale(expected).tolist())


def test_the_least_p_of_few_tasks_is_corrected(found: StudyResults) -> None:
    """2 / 2^3 of three tasks, corrected for six comparisons."""
    assert [(item.test.least_p, item.least_p) for item in found.over_tasks] == [(0.25, 1.0)] * 6
    for item in found.over_tasks:
        assert item.p_value >= item.least_p
    assert "(3 tasks cannot give less than 1)." in render_markdown(found)


def test_six_tasks_are_too_few_for_two_comparisons(several: StudyFolder) -> None:
    (first, *_) = compute_results(several).over_tasks
    test = dataclasses.replace(first.test, tasks=6, won=6, p_value=1 / 32, least_p=1 / 32)
    over = dataclasses.replace(first, test=test, p_value=2 / 32, least_p=2 / 32)
    assert words.over_tasks(over).endswith("(6 tasks cannot give less than 0.062).")


def test_without_outcomes_there_is_no_interval_over_rows(small: StudyFolder) -> None:
    with_rows = {m.label: m.verdict for _, m in every_method(compute_results(small))}
    small.examples_file("rte--dora--1").unlink()
    without = {m.label: m.verdict for _, m in every_method(compute_results(small))}
    for label in ("lora", "dora_again"):
        before, after = with_rows[label], without[label]
        assert before is not None
        assert after is not None
        assert before.difference.over_rows is not None
        assert after.difference.over_rows is None
        assert after.difference.over_seeds == before.difference.over_seeds
        assert after.finding not in ("better", "worse")


def test_the_interval_over_rows_is_that_of_a_bootstrap(small: StudyFolder) -> None:
    """The bootstrap here calls Examples.compute on three seeds, to the precision of its draws."""
    verdict = next(m.verdict for _, m in every_method(compute_results(small)) if m.label == "lora")
    assert verdict is not None
    assert verdict.difference.over_rows is not None
    runs = {
        (label, seed): Examples.load(small.examples_file(f"rte--{label}--{seed}"))
        for label in ("lora", "dora")
        for seed in (0, 1, 2)
    }
    rng = np.random.default_rng(11)
    drawn = []
    for _ in range(300):
        rows = rng.integers(40, size=40)
        values = [
            runs["lora", seed].compute(rows) - runs["dora", seed].compute(rows)
            for seed in (0, 1, 2)
        ]
        drawn.append(np.mean(values))
    spread_of_rows = np.std(drawn)
    assert verdict.difference.over_rows.error >= 0.9 * spread_of_rows


def test_runs_on_different_rows_are_refused(small: StudyFolder) -> None:
    file = small.examples_file("rte--lora--1")
    run = Examples.load(file)
    Examples(run.metric, ("other:1", *run.ids[1:]), run.scores, run.predictions, run.labels).save(
        file
    )
    with pytest.raises(MethodError, match="runs of rte report on different rows"):
        compute_results(small)


def test_a_study_without_results_names_the_command_to_continue(small: StudyFolder) -> None:
    for record in small.path.glob("records/*.json"):
        record.unlink()
    with pytest.raises(MethodError, match=r"none of its 9 runs is finished.*rankwright compare"):
        compute_results(small)


def test_a_folder_without_a_study_is_named(small: StudyFolder) -> None:
    with pytest.raises(MethodError, match="holds no study"):
        compute_results(StudyFolder(small.path / "records"))


def test_a_missing_baseline_leaves_the_means(tmp_path) -> None:
    folder = made_up.study(
        tmp_path, methods=("dora", "lora"), tasks=("rte",), seeds=(0,), rows=30, trials=0,
        unfinished=[("rte", "dora", 0)],
    )  # fmt: skip
    (task,) = compute_results(folder).tasks
    (lora,) = task.methods
    assert (lora.label, lora.verdict) == ("lora", None)
