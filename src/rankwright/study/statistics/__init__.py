"""Statistics of a study: intervals, tests, power, and verdicts in words."""

from rankwright.study.statistics.draws import resample
from rankwright.study.statistics.interval import Estimate, estimate
from rankwright.study.statistics.power import seeds_needed
from rankwright.study.statistics.several import SignedRank, holm, signed_rank
from rankwright.study.statistics.two_way import over_seeds_and_rows
from rankwright.study.statistics.verdict import Difference, Unit, Verdict, judge

__all__ = [
    "Difference",
    "Estimate",
    "SignedRank",
    "Unit",
    "Verdict",
    "estimate",
    "holm",
    "judge",
    "over_seeds_and_rows",
    "resample",
    "seeds_needed",
    "signed_rank",
]
