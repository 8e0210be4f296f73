"""Tuning at equal cost: as many trials for every method, each within the budget of a run.

Trials are kept in an Optuna storage. Every process that opens the same storage takes part: it asks
for the next trial until there are enough. A trial whose process died is started again, and one
whose machine died is given to another machine. A trial that diverged counts, since finding that out
has cost as much as any other trial. The first trial is the untuned method. The next ones are drawn
alike for all methods of a task, so that no method is ahead because its learning rates were lucky.
In a finite space no point is tried twice: the result would be the same.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from rankwright.study.errors import StoppedError, TrialFailedError
from rankwright.study.records.tuning import TuningRecord
from rankwright.study.tuning.heartbeats import fail_lost_trials, start_heartbeat
from rankwright.study.tuning.objective import Objective, TrialRunner, suggest
from rankwright.study.tuning.search_spec import SearchSpec
from rankwright.study.tuning.trial_store import TrialStore
from rankwright.study.tuning.trials import best_trial, freeze, is_waiting, record_trial

WAIT_SECONDS = 1.0
"""Pause before a process asks again, after it found no trial to take."""


def tune(searches: Sequence[Search], jobs: int) -> tuple[list[TuningRecord], dict[str, str]]:
    """Carry out the missing trials of several searches, and wait for those of other machines.

    A process that finds no trial to take in one search takes one of the next.

    Args:
        searches: The searches.
        jobs: Number of trials at a time.

    Returns:
        Records of the searches with a complete trial, and for the other searches, by label of the
        method, why no trial gave a value.

    Raises:
        StoppedError: The study was asked to stop.
        MethodError: The storage holds trials of another study.
    """
    for search in searches:
        search.store.open()
    with ThreadPoolExecutor(jobs) as pool:
        for done in [pool.submit(_take_part, searches) for _ in range(jobs)]:
            done.result()
    failed = {s.spec.method.label: failure for s in searches if (failure := s.failure) is not None}
    return [s.save_record() for s in searches if s.spec.method.label not in failed], failed


def _take_part(searches: Sequence[Search]) -> None:
    """Take one trial after the other until every search is finished."""
    while unfinished := [search for search in searches if not search.finished]:
        if not any(search.take_one() for search in unfinished):
            time.sleep(WAIT_SECONDS)  # a process at work may still die, and leave its trial


@dataclass
class Search:
    """The search for one method's hyperparameters on one task.

    Attributes:
        store: The trials.
        runner: Carries trials out.
        notify: Takes a line for the user at the end of every trial.
    """

    store: TrialStore
    runner: TrialRunner
    notify: Callable[[str], None] = lambda _line: None

    @property
    def spec(self) -> SearchSpec:
        """The search as planned."""
        return self.store.spec

    @property
    def finished(self) -> bool:
        """Whether the search has all its trials and none of them is open."""
        return self.store.is_finished(self.store.load())

    @property
    def failure(self) -> str | None:
        """Why no trial of the finished search gave a value; None if one did."""
        study = self.store.load()
        if not self.store.all_failed(study):
            return None
        trials = self.store.trials(study)
        last = trials[-1].user_attrs["error"]
        return f"all trials of its tuning failed, the last of {len(trials)} with: {last}"

    def take_one(self) -> bool:
        """Carry one trial out; return False if there is none to take at present.

        Raises:
            StoppedError: The study was asked to stop.
        """
        with contextlib.ExitStack() as turn:
            turn.enter_context(self.store.lock())
            if self.runner.stopping:
                raise StoppedError
            study = self.store.load()
            fail_lost_trials(self.store.storage, study)
            trials = self.store.trials(study)
            available = len(trials) < self.spec.trial_count or any(map(is_waiting, trials))
            if available:
                self._run_one(study, turn.close)
        return available

    def save_record(self) -> TuningRecord:
        """Write and return the record of the finished search, which has a complete trial."""
        study, known = self.store.load(), self.spec.task_record
        trials = self.store.trials(study)
        best = best_trial(trials, greater_is_better=known.greater_is_better)
        assert best.value is not None
        record = TuningRecord(
            task=self.spec.task,
            label=self.spec.method.label,
            metric=known.metric,
            greater_is_better=known.greater_is_better,
            space={name: str(choice) for name, choice in self.spec.space.items()},
            trials=tuple(record_trial(study, trial) for trial in trials),
            best=best.params,
            best_value=best.value,
        )
        record.save(self.spec.plan.folder.tuning(self.spec.task, self.spec.method.label))
        return record

    def _run_one(self, study: optuna.Study, release: Callable[[], None]) -> None:
        """Run one trial; drop it if another machine took it over while this one was unreachable.

        Args:
            study: The trials.
            release: Releases the lock on the trials.
        """
        objective = Objective(self.spec, self.store.attempt, self.runner, self.notify)
        taken_over = False

        def evaluate(trial: optuna.Trial) -> float:
            nonlocal taken_over
            try:
                start_heartbeat(self.store.storage, study, trial)
                values = suggest(trial, self.spec.space)
                release()  # other processes may ask from now on, and see these values
                return objective.evaluate(trial, values)
            finally:
                taken_over = freeze(trial).state is not TrialState.RUNNING

        try:
            study.optimize(evaluate, n_trials=1, catch=(TrialFailedError,))
        except (ValueError, UpdateFinishedTrialError):  # Optuna's, for a trial that is over
            if not taken_over:
                raise
