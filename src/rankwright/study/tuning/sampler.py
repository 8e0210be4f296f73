"""Draw trials as a function of a seed, the place of the trial, and the trials so far."""

from __future__ import annotations

import copy
import hashlib
import random
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial

from rankwright.core.search_space import OneOf, SearchSpace, points
from rankwright.study.tuning.trials import place, sort_by_place


class SeededSampler(BaseSampler):
    """Optuna's TPE with draws that depend on (seed, place, parameter) and the trials so far.

    A resumed study, or one that another machine joins, therefore does not repeat values. The
    first ten trials, which TPE draws at random, are at the same places in the ranges of all methods
    that share a seed.

    Args:
        seed: Any text.
        space: The search space; in a finite one, no point is drawn twice while others are left.
    """

    def __init__(self, seed: str, space: SearchSpace) -> None:
        self._seed = seed
        self._points = points(space)
        lists = {name: choice.values for name, choice in space.items() if isinstance(choice, OneOf)}
        self._lists = lists if len(lists) == len(space) else {}

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return a finite space, or nothing, so that parameters are drawn one by one."""
        del study, trial
        return {name: CategoricalDistribution(values) for name, values in self._lists.items()}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return a point of a finite space: TPE's choice, or an untried one if that was tried."""
        if not search_space:
            return {}
        others = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
        tried = {_to_point(t.params) for t in others if t.params.keys() == search_space.keys()}
        drawn = {
            name: self.sample_independent(study, trial, name, distribution)
            for name, distribution in search_space.items()
        }
        generator = random.Random(f"{self._seed} {place(study, trial)}")
        while _to_point(drawn) in tried and len(tried) < self._points:
            drawn = {name: generator.choice(self._lists[name]) for name in search_space}
        return drawn

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw one parameter of one trial."""
        key = f"{self._seed} {place(study, trial)} {param_name}".encode()
        seed = int.from_bytes(hashlib.blake2b(key, digest_size=4).digest(), "big")
        sampler = TPESampler(seed=seed)
        ordered, last = _order_by_place(study, trial)
        return sampler.sample_independent(ordered, last, param_name, param_distribution)


def _order_by_place(study: optuna.Study, trial: FrozenTrial) -> tuple[optuna.Study, FrozenTrial]:
    """Return the other trials as a study in memory, numbered by place, and this trial as the last.

    TPE weighs trials and breaks ties by their numbers, but a retried trial gets a higher number.
    """
    others = [
        t for t in sort_by_place(study.get_trials(deepcopy=False)) if t.number != trial.number
    ]
    ordered = optuna.create_study(direction=study.direction)
    ordered.add_trials(others)
    last = copy.copy(trial)
    last.number = len(others)
    return ordered, last


def _to_point(parameters: dict[str, Any]) -> frozenset[tuple[str, Any]]:
    return frozenset(parameters.items())
