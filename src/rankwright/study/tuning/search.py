"""Tuning at equal cost: so many trials for every method, each within the budget of a run.

Trials are kept in an Optuna storage. Whoever opens the same storage takes part: the next trial goes
to whoever asks, until there are enough. A trial whose process died is started again, and one whose
machine died is given to another; a trial that diverged counts, since finding that out has cost what
a trial costs. The first trial is the method as it would run untuned. The next ones are drawn alike
for all methods of a task, so that none is ahead for having been lucky with its rates. In a finite
space no point is tried twice: it would give the same again.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from rankwright.core.search_space import LogRange, OneOf, SearchSpace
from rankwright.errors import MethodError
from rankwright.job import RunFolder
from rankwright.study.errors import StoppedError
from rankwright.study.execution.processes import Exit, Processes, error_of
from rankwright.study.execution.protocol import OUTCOME
from rankwright.study.planning.config import OF_A_METHOD, MethodSpec
from rankwright.study.planning.plan import Plan
from rankwright.study.planning.same_study import check_same, check_same_method
from rankwright.study.records.locks import locked
from rankwright.study.records.names import run_name
from rankwright.study.records.tuning import TrialOutcome, TuningRecord
from rankwright.study.tuning.sampler import SeededSampler
from rankwright.study.tuning.storage import Storage
from rankwright.study.tuning.trials import (
    alive,
    best_of,
    complete,
    counts,
    once_each,
    place,
    trial_record,
    waits,
)

WAIT_SECONDS = 1.0
DESCRIPTION = "rankwright"
"""Name of what an Optuna study keeps of what its trials depend on."""
BEGUN = "begun"
"""Name of what a trial keeps once it has a heartbeat: its number, which is not that of a retry."""


class TrialFailedError(Exception):
    """A trial that ended without a value, and counts."""


def tune(
    searches: Sequence[Search], processes: Processes
) -> tuple[list[TuningRecord], dict[str, str]]:
    """Carry out what is missing of several searches, and wait for trials of other machines.

    Whoever finds no trial to be had of one search takes one of the next.

    Args:
        searches: The searches.
        processes: What carries trials out, as many at a time as it has jobs.

    Returns:
        The searches that found something, and of the others, by the label of the method, why no
        trial gave a value.

    Raises:
        StoppedError: The study was asked to stop.
        MethodError: The storage holds trials of another study.
    """
    for search in searches:
        search.begin()
    with ThreadPoolExecutor(processes.jobs) as pool:
        for done in [pool.submit(_take_part, searches) for _ in range(processes.jobs)]:
            done.result()
    failed = {s.spec.label: failure for s in searches if (failure := s.failure) is not None}
    return [s.outcome() for s in searches if s.spec.label not in failed], failed


def _take_part(searches: Sequence[Search]) -> None:
    """One trial after the other until there are enough of every search."""
    while unfinished := [search for search in searches if not search.finished]:
        if not any(search.take_one() for search in unfinished):
            time.sleep(WAIT_SECONDS)  # one of those at work may yet die


@dataclass
class Search:
    """The search for one method's hyperparameters on one task.

    Attributes:
        plan: The study.
        task: Label of the task.
        spec: The method before tuning.
        storage: Where the trials are.
        processes: What carries them out.
        says: Takes a line for the user at the end of every trial.
    """

    plan: Plan
    task: str
    spec: MethodSpec
    storage: Storage
    processes: Processes
    says: Callable[[str], None] = lambda _line: None
    _attempt: int = field(default=1, init=False)

    @property
    def space(self) -> SearchSpace:
        """What is searched."""
        return self.plan.space(self.task, self.spec)

    @property
    def wanted(self) -> int:
        """How many trials the method gets."""
        return self.plan.trials(self.task, self.spec)

    @property
    def untuned(self) -> dict[str, Any]:
        """The first trial: the method as it would run untuned, where that is in the space."""
        config = self.plan.config.train_config(self.plan.task(self.task), self.spec)
        values = {}
        for name, choice in self.space.items():
            holder = config if name in OF_A_METHOD else self.spec.method
            values[name] = _present(choice, getattr(holder, name))
        return values

    def begin(self) -> None:
        """Make the storage ready, with the untuned method as the first trial.

        An earlier command may have left trials that all failed: then they are made anew.

        Raises:
            MethodError: The storage holds trials of another study.
        """
        with self._alone():
            while self._all_failed(study := self._made()):
                self._attempt += 1
            study.enqueue_trial(self.untuned, skip_if_exists=True)

    @property
    def finished(self) -> bool:
        """Whether there are as many trials as the method gets, none of them at work."""
        return self._is_finished(self._trials(self._study()))

    def take_one(self) -> bool:
        """Carry a trial out; False if there is none to be had, now.

        Raises:
            StoppedError: The study was asked to stop.
        """
        with contextlib.ExitStack() as turn:
            turn.enter_context(self._alone())
            if self.processes.stopping:
                raise StoppedError
            study = self._study()
            optuna.storages.fail_stale_trials(study)
            self._fail_never_begun(study)
            trials = self._trials(study)
            to_be_had = len(trials) < self.wanted or any(map(waits, trials))
            if to_be_had:
                self._one(study, turn.close)
        return to_be_had

    @property
    def failure(self) -> str | None:
        """Why no trial of the finished search gave a value; None if one did."""
        study = self._study()
        if not self._all_failed(study):
            return None
        trials = self._trials(study)
        last = trials[-1].user_attrs["error"]
        return f"all trials of its tuning failed, the last of {len(trials)} with: {last}"

    def outcome(self) -> TuningRecord:
        """The finished search, some of whose trials gave a value; it is written as well."""
        record = self._record(self._study())
        record.save(self.plan.folder.tuning(self.task, self.spec.label))
        return record

    def _alone(self) -> contextlib.AbstractContextManager[bool]:
        """Hold the trials against others with the same folder, for as long as it takes to ask.

        SQLite locks no row: two could take the same trial, or one more than there are.
        """
        return locked(self.plan.folder.path / "tuning")

    @property
    def _name(self) -> str:
        again = "" if self._attempt == 1 else f"/again-{self._attempt}"
        return f"{self.plan.record.name}/{self.task}/{self.spec.label}{again}"

    def _made(self) -> optuna.Study:
        """The study of this attempt, made if it is not there."""
        known = self.plan.task_record(self.task)
        study = optuna.create_study(
            storage=self.storage,
            study_name=self._name,
            direction="maximize" if known.greater_is_better else "minimize",
            load_if_exists=True,
        )
        self._check_same(study)
        return study

    def _study(self) -> optuna.Study:
        """What `begin` has made; opened for reading, since SQLite has one writer at a time."""
        sampler = SeededSampler(self.task, self.space)
        return optuna.load_study(study_name=self._name, storage=self.storage, sampler=sampler)

    def _check_same(self, study: optuna.Study) -> None:
        """Refuse trials of a study that has the same name and is another one."""
        plan, record = self.plan, self.plan.record
        method = next(m for m in record.methods if m.label == self.spec.label)
        present: dict[str, Any] = {
            "model": record.model,
            "budget": record.budget,
            "trials": record.trials,
            "tuning_seed": record.tuning_seed,
            "task": asdict(plan.task_record(self.task)),
            "method": asdict(method),
        }
        if DESCRIPTION not in study.user_attrs:
            study.set_user_attr(DESCRIPTION, present)
        for name, value in study.user_attrs[DESCRIPTION].items():
            check = check_same_method if name == "method" else check_same
            check(name, value, present[name])

    def _trials(self, study: optuna.Study) -> list[FrozenTrial]:
        """The first of those that count, are at work or wait, no more than the method gets.

        Machines that ask at the same time may make more; which ones are left out is the same to
        all of them.
        """
        trials = study.get_trials(deepcopy=False)
        return once_each(t for t in trials if alive(t) or counts(t))[: self.wanted]

    def _is_finished(self, trials: Sequence[FrozenTrial]) -> bool:
        return len(trials) == self.wanted and all(map(counts, trials))

    def _all_failed(self, study: optuna.Study) -> bool:
        trials = self._trials(study)
        return self._is_finished(trials) and not any(map(complete, trials))

    def _fail_never_begun(self, study: optuna.Study) -> None:
        """Give away trials whose machine died before their first heartbeat.

        Optuna does so with those that have had one.
        """
        assert self.storage.grace_period is not None
        late = datetime.now() - timedelta(seconds=self.storage.grace_period)
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            assert trial.datetime_start is not None
            if trial.user_attrs.get(BEGUN) != trial.number and trial.datetime_start < late:
                try:
                    study.tell(trial.number, state=TrialState.FAIL)
                except (ValueError, UpdateFinishedTrialError):  # another machine has just done so
                    continue
                RetryHeartbeatStaleTrialCallback()(study, trial)

    def _begin(self, trial: optuna.Trial) -> None:
        """The first heartbeat, and after it the note that there was one."""
        study_id = self.storage.get_study_id_from_name(self._name)
        trial_id = self.storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
        self.storage.record_heartbeat(trial_id)
        trial.set_user_attr(BEGUN, trial.number)

    def _one(self, study: optuna.Study, begun: Callable[[], None]) -> None:
        """One trial; dropped if another machine took it over while this one was out of reach."""
        taken: list[bool] = []

        def objective(trial: optuna.Trial) -> float:
            try:
                self._begin(trial)
                values = {name: _suggest(trial, name, c) for name, c in self.space.items()}
                begun()  # others may ask: they find what this one tries
                return self._objective(trial, values)
            finally:
                taken.append(_frozen(trial).state is not TrialState.RUNNING)

        try:
            study.optimize(objective, n_trials=1, catch=(TrialFailedError,))
        except (ValueError, UpdateFinishedTrialError):  # Optuna's of a trial that is over
            if not any(taken):
                raise

    def _folder(self, trial: optuna.Trial) -> Path:
        name = run_name(self.task, self.spec.label, place(trial.study, _frozen(trial)))
        again = "" if self._attempt == 1 else f"--{self._attempt}"
        return self.plan.folder.path / "tuning" / "trials" / (name + again)

    def _objective(self, trial: optuna.Trial, values: dict[str, Any]) -> float:
        folder = self._folder(trial)
        try:
            spec = self.spec.with_values(values)
            steps = self.plan.steps(self.task, spec)
            seed = self.plan.record.tuning_seed
            assert seed is not None
            self.plan.prepare(folder, "trial", self.task, spec, seed, steps)
        except MethodError as error:
            raise self._failed(trial, str(error)) from error
        end = self.processes.run(folder)
        if end is Exit.STOPPED:
            RetryHeartbeatStaleTrialCallback()(trial.study, _frozen(trial))
            raise StoppedError
        if end is not Exit.DONE:
            shutil.rmtree(RunFolder.read(folder).checkpoints, ignore_errors=True)  # the log stays
            raise self._failed(trial, error_of(folder, end))
        outcome = TrialOutcome.load(folder / OUTCOME)
        trial.set_user_attr("passes", outcome.passes)
        trial.set_user_attr("seconds", outcome.seconds)
        shutil.rmtree(folder)
        metric = self.plan.task_record(self.task).metric
        if math.isnan(outcome.value):  # Optuna would ask for another trial, without end
            raise self._failed(trial, f"{metric} is nan")
        self._tell(trial, f": {metric} {outcome.value:.4f}")
        return outcome.value

    def _tell(self, trial: optuna.Trial, what: str) -> None:
        number = place(trial.study, _frozen(trial))
        self.says(f"trial {number} of {self.spec.label} on {self.task}{what}")

    def _failed(self, trial: optuna.Trial, message: str) -> TrialFailedError:
        trial.set_user_attr("error", message)
        self._tell(trial, f" failed: {message}")
        return TrialFailedError(message)

    def _record(self, study: optuna.Study) -> TuningRecord:
        known = self.plan.task_record(self.task)
        trials = self._trials(study)
        best = best_of(trials, greater_is_better=known.greater_is_better)
        assert best.value is not None
        return TuningRecord(
            task=self.task,
            label=self.spec.label,
            metric=known.metric,
            greater_is_better=known.greater_is_better,
            space={name: str(choice) for name, choice in self.space.items()},
            trials=tuple(trial_record(study, trial) for trial in trials),
            best=best.params,
            best_value=best.value,
        )


def _present(choice: LogRange | OneOf, value: Any) -> Any:
    """The value if it can be tried, else the middle of a range, or the first of a list."""
    if isinstance(choice, LogRange):
        inside = isinstance(value, int | float) and choice.low <= value <= choice.high
        return float(value) if inside else choice.middle
    return value if value in choice.values else choice.values[0]


def _suggest(trial: optuna.Trial, name: str, choice: LogRange | OneOf) -> Any:
    if isinstance(choice, LogRange):
        return trial.suggest_float(name, choice.low, choice.high, log=True)
    return trial.suggest_categorical(name, choice.values)


def _frozen(trial: optuna.Trial) -> FrozenTrial:
    return next(t for t in trial.study.get_trials(deepcopy=False) if t.number == trial.number)
