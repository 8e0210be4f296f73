"""The statistics on simulated studies, where the truth is known.

A simulated study has differences D (seeds, rows) = truth + a seed's + a row's + the rest's own
effect, all normal. Tolerances are three standard errors of a share among that many studies.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from rankwright.study.statistics import (
    Difference,
    Unit,
    estimate,
    holm,
    judge,
    over_seeds_and_rows,
    seeds_needed,
    signed_rank,
)
from rankwright.study.statistics.power import t_test_power
from rankwright.study.statistics.verdict import format_p

STUDIES = 400
ROWS = 120
COUNTS = np.random.default_rng(0).multinomial(ROWS, np.full(ROWS, 1 / ROWS), 300).astype(float)
POINTS = Unit(scale=100, digits=1)


def share_within(share: float, expected: float, studies: int = STUDIES) -> bool:
    return abs(share - expected) < 3 * math.sqrt(expected * (1 - expected) / studies)


def simulated(
    rng: np.random.Generator,
    seeds: int = 5,
    truth: float = 0.0,
    of_seed: float = 0.02,
    of_row: float = 0.3,
    rest: float = 0.3,
) -> np.ndarray:
    """Differences of one study, (seeds, rows)."""
    effects = of_seed * rng.normal(size=(seeds, 1)) + of_row * rng.normal(size=(1, ROWS))
    return truth + effects + rest * rng.normal(size=(seeds, ROWS))


def difference(table: np.ndarray) -> Difference:
    return Difference.of(table.mean(axis=1).tolist(), COUNTS @ table.T / ROWS, ROWS)


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_the_interval_over_seeds_covers_the_truth_in_95_of_100_studies(seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    studies = [estimate(rng.normal(0.8, 0.1, seeds)) for _ in range(STUDIES)]
    assert share_within(np.mean([s.low <= 0.8 <= s.high for s in studies]), 0.95)
    wrong = [estimate(rng.normal(0.0, 0.1, seeds)).p_value < 0.05 for _ in range(STUDIES)]
    assert share_within(np.mean(wrong), 0.05)


def test_the_estimate_is_scipys() -> None:
    values = [0.61, 0.64, 0.58, 0.66]
    ours, theirs = estimate(values), scipy.stats.ttest_1samp(values, 0)
    interval = theirs.confidence_interval(0.95)
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high), rel=1e-12)
    assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-9)


@pytest.mark.parametrize(
    ("of_seed", "of_row", "rest"),
    [(0.05, 0.0, 0.1), (0.0, 0.4, 0.1), (0.02, 0.3, 0.3)],
    ids=["seeds", "rows", "all"],
)
def test_the_interval_over_seeds_and_rows_covers_the_truth(
    of_seed: float, of_row: float, rest: float
) -> None:
    """The truth is that of other rows, which the interval over seeds alone does not cover."""
    rng = np.random.default_rng(1)
    held = [
        difference(simulated(rng, 5, 0.01, of_seed, of_row, rest)).over_rows for _ in range(STUDIES)
    ]
    assert share_within(np.mean([e.low <= 0.01 <= e.high for e in held if e]), 0.95)


def test_the_interval_is_wider_than_needed_where_only_the_rest_varies() -> None:
    """The variance never falls below what the seeds alone show, which here counts it twice."""
    rng = np.random.default_rng(2)
    held = [difference(simulated(rng, 5, 0.0, 0.0, 0.0, 0.4)).over_rows for _ in range(STUDIES)]
    share = np.mean([e.low <= 0 <= e.high for e in held if e])
    assert 0.95 <= share <= 1.0


def test_seeds_alone_make_false_claims_about_other_rows() -> None:
    rng = np.random.default_rng(3)
    studies = [difference(simulated(rng, 5, 0.0, 0.0, 0.4, 0.1)) for _ in range(200)]
    assert np.mean([s.over_seeds.p_value < 0.05 for s in studies]) > 0.5
    assert np.mean([s.over_rows.p_value < 0.05 for s in studies if s.over_rows]) < 0.1


def test_a_mean_over_rows_has_the_variance_that_the_two_way_formula_gives() -> None:
    """For a mean, the bootstrap's variances are the analysis of variance, up to chance."""
    rng = np.random.default_rng(4)
    table = simulated(rng, 6)
    draws = rng.multinomial(ROWS, np.full(ROWS, 1 / ROWS), 20_000) @ table.T / ROWS
    found = over_seeds_and_rows(table.mean(axis=1).tolist(), draws, ROWS)
    rest = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + table.mean()
    squares = (
        ROWS * table.mean(axis=1).var(ddof=1),
        6 * table.mean(axis=0).var(ddof=1),
        (rest**2).sum() / (5 * (ROWS - 1)),
    )
    expected = (squares[0] + squares[1] - squares[2]) / table.size
    assert found.error**2 == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(("effect", "seeds"), [(0.8, 15), (1.5, 6), (0.3, 90)])
def test_the_needed_seeds_detect_the_difference_in_80_of_100_studies(
    effect: float, seeds: int
) -> None:
    assert seeds_needed(effect, 1.0) == seeds
    values = np.random.default_rng(5).normal(effect, 1.0, (4000, seeds))
    p_values = scipy.stats.ttest_1samp(values, 0, axis=1).pvalue
    assert 0.78 <= np.mean(p_values < 0.05) <= 0.86  # one seed more or less moves it by some 2 %
    fewer = scipy.stats.ttest_1samp(values[:, : seeds - 1], 0, axis=1).pvalue
    assert np.mean(fewer < 0.05) < 0.82


@pytest.mark.parametrize("alpha", [0.05, 0.0025])
@pytest.mark.parametrize("count", [2, 3, 8])
@pytest.mark.parametrize("effect", [0.3, 3.0, 12.0])
def test_the_power_is_the_share_of_studies_that_detect_the_effect(
    effect: float, count: int, alpha: float
) -> None:
    values = np.random.default_rng(9).normal(effect, 1.0, (4000, count))
    seen = np.mean(scipy.stats.ttest_1samp(values, 0, axis=1).pvalue < alpha)
    assert t_test_power(effect, count, alpha) == pytest.approx(seen, abs=0.025)


def test_no_number_of_seeds_shows_a_difference_of_zero() -> None:
    assert seeds_needed(0.0, 1.0) is None
    assert seeds_needed(0.0, 0.0) is None
    assert seeds_needed(1e-3, 1.0) is None
    assert seeds_needed(-0.8, 1.0) == seeds_needed(0.8, 1.0)
    assert seeds_needed(0.8, 0.0) == 6  # 2 / 2^6 is the first below 0.05


def test_holm_by_hand() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06}
    )
    assert holm({}) == {}


def test_among_five_equal_methods_none_is_called_better_in_95_of_100_studies() -> None:
    rng = np.random.default_rng(6)

    def any_found() -> bool:
        differences = {f"m{k}": difference(simulated(rng, of_row=0.0)) for k in range(5)}
        found = judge(differences, "lora").values()
        return any(verdict.finding != "not distinguishable" for verdict in found)

    assert np.mean([any_found() for _ in range(200)]) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)


def test_wilcoxon_over_tasks_is_exact() -> None:
    assert signed_rank([0.4, 0.1, 0.8, 0.2, 0.3, 0.6]).p_value == pytest.approx(2 / 2**6)
    five = signed_rank([0.4, 0.1, 0.8, 0.2, 0.3])
    assert (five.tasks, five.won, five.p_value, five.least_p) == (5, 5, 0.0625, 0.0625)
    assert signed_rank([0.0, 0.0]).p_value == 1.0
    mixed = [0.5, -0.2, 0.9, 0.7, -0.1, 0.3, 0.8]
    assert signed_rank(mixed).p_value == pytest.approx(scipy.stats.wilcoxon(mixed).pvalue)


def test_one_method_under_two_names_is_not_distinguishable() -> None:
    by_seed = [0.0] * 5
    same = Difference.of(by_seed, np.zeros((300, 5)), ROWS)
    verdict = judge({"dora2": same}, "dora")["dora2"]
    assert verdict.finding == "not distinguishable"
    assert (
        verdict.describe(POINTS) == "dora2 − dora = 0 on every one of 5 seeds: not distinguishable."
    )


def test_sentences_of_verdicts() -> None:
    few = Difference.of([0.02, -0.005, 0.015, -0.008, 0.018])
    verdict = judge({"bidora": few}, "dora")["bidora"]
    needed = seeds_needed(0.8, 100 * float(np.std(few.by_seed, ddof=1)))
    assert verdict.describe(POINTS) == (
        "bidora − dora = +0.8 ± 1.7: not distinguishable with 5 seeds; "
        f"{needed} seeds would be needed to see 0.8."
    )
    none = judge({"a": Difference.of([0.01, -0.0101, 0.0])}, "b")["a"].describe(POINTS)
    assert none == "a − b = 0.0 ± 2.5: not distinguishable with 3 seeds."
    by_seed = [-0.020, -0.021, -0.019]
    clear = Difference.of(by_seed, np.tile(by_seed, (9, 1)), ROWS)
    assert judge({"a": clear}, "b")["a"].describe(POINTS) == (
        "a − b = −2.0 ± 0.2: worse, p < 0.001, 3 seeds."
    )
    loss = judge({"a": clear}, "b", greater_is_better=False)["a"]
    assert loss.finding == "better"
    one = judge({"a": Difference.of([0.01])}, "b")["a"]
    assert (one.finding, one.difference.over_seeds.half_width) == ("one seed", math.inf)
    assert one.describe(POINTS) == "a − b = +1.0 with one seed: it has no interval; run more seeds."
    same = judge({"a": Difference.of([0.05] * 5)}, "b")["a"]
    assert same.describe(POINTS) == (
        "a − b = +5.0 on every one of 5 seeds: not distinguishable with 5 seeds; "
        "6 seeds would be needed to see 5.0."
    )


def test_without_outcomes_by_row_a_verdict_is_about_these_rows() -> None:
    """Missing outcomes must not make a claim stronger."""
    table = np.random.default_rng(7).normal(0.0, 0.4, (1, ROWS)).repeat(5, axis=0)
    table += 0.02 - table.mean() + 1e-4 * np.arange(5)[:, None]
    known = difference(table)
    unknown = Difference.of(known.by_seed)
    clear = Difference.of([-0.020, -0.021, -0.019], np.tile([-0.020, -0.021, -0.019], (9, 1)), ROWS)
    found = judge({"known": known, "unknown": unknown, "clear": clear}, "b")
    assert [verdict.finding for verdict in found.values()] == [
        "better on these rows", "better on these rows", "worse",
    ]  # fmt: skip
    assert found["unknown"].describe(POINTS) == (
        "unknown − b = +2.0 ± 0.0: better on these rows, p < 0.001, 5 seeds. "
        "Outcomes by row are missing, so nothing is known about other rows."
    )


def test_too_few_rows_are_named() -> None:
    table = np.random.default_rng(7).normal(0.0, 0.4, (1, ROWS)).repeat(5, axis=0)
    table += 0.02 - table.mean() + 1e-4 * np.arange(5)[:, None]
    verdict = judge({"a": difference(table)}, "b")["a"]
    assert verdict.finding == "better on these rows"
    assert f"{ROWS} rows are too few for a general claim." in verdict.describe(POINTS)


def test_a_finding_on_these_rows_is_named_even_if_both_intervals_look_the_same() -> None:
    """The two are on either side of 0.05, and closer to each other than the digits shown."""
    by_seed = 0.0145 * (1 + np.array([-1.0, 1.0, -0.5, 0.5, 0.0]))
    draws = by_seed + 0.0045 * np.tile([-1.0, 1.0], 150)[:, None]
    verdict = judge({"a": Difference.of(by_seed.tolist(), draws, ROWS)}, "b")["a"]
    assert verdict.difference.over_rows is not None
    tenths = Unit(scale=10, digits=1)
    assert tenths.format(verdict.difference.over_seeds.half_width) == tenths.format(
        verdict.difference.over_rows.half_width
    )
    assert verdict.finding == "better on these rows"
    words = verdict.describe(tenths)
    assert ": better on these rows, p = 0.0" in words
    assert words.endswith(f"{ROWS} rows are too few for a general claim.")


def test_a_metric_of_few_values_has_no_excess_of_false_positives() -> None:
    """Differences of two seeds are whole rows of 277 and often equal."""
    rows = np.rint(np.random.default_rng(10).normal(0.0, 2.0, (STUDIES, 2)))
    assert np.mean((rows[:, 0] == rows[:, 1]) & (rows[:, 0] != 0)) > 0.08
    assert np.mean([estimate(row / 277).p_value < 0.05 for row in rows]) < 0.05
    same = judge({"a": Difference.of([1 / 277] * 2)}, "b")["a"]
    assert same.finding == "not distinguishable"
    assert same.seeds_needed == 6
    six = judge({"a": Difference.of([1 / 277] * 6)}, "b")["a"]
    assert six.finding == "better on these rows"


@pytest.mark.parametrize(
    ("p_value", "text"),
    [(0.04997, "0.04997"), (0.0502, "0.05"), (0.05, "0.05"), (0.0321, "0.032"), (1.0, "1")],
)
def test_a_formatted_p_value_keeps_its_side_of_the_level(p_value: float, text: str) -> None:
    assert format_p(p_value) == f"p = {text}"


def test_an_undetected_difference_needs_more_seeds_than_there_are() -> None:
    rng = np.random.default_rng(8)
    for seeds in (2, 3, 6):
        differences = {f"m{k}": Difference.of(rng.normal(2, 1, seeds).tolist()) for k in range(20)}
        unseen = [
            verdict
            for verdict in judge(differences, "lora").values()
            if verdict.finding == "not distinguishable"
        ]
        assert len(unseen) >= 5
        for verdict in unseen:
            assert verdict.seeds_needed is None or verdict.seeds_needed > seeds


def test_a_mean_within_rounding_is_zero() -> None:
    """Seeds that cancel out must not count as a task won: 0.1 + 0.2 - 0.3 is not 0 in floats."""
    assert math.fsum([0.1, 0.2, -0.3]) != 0
    assert estimate([0.1, 0.2, -0.3]).mean == 0.0
    assert estimate([0.1, 0.2, -0.3 + 1e-9]).mean != 0.0


def test_an_infinite_value_has_no_interval() -> None:
    found = estimate([1.0, math.inf, 1.0])
    assert (found.mean, found.error, found.p_value) == (math.inf, math.inf, 1.0)


def test_empty_or_mismatched_input_is_refused() -> None:
    with pytest.raises(ValueError, match="one for each seed"):
        estimate([])
    with pytest.raises(ValueError, match="one for each task"):
        signed_rank([])
    with pytest.raises(ValueError, match=r"expected \(draws, 3\)"):
        over_seeds_and_rows([0.1, 0.2, 0.3], np.zeros((10, 2)), 4)
