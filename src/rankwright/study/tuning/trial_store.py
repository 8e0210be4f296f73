"""The trials of one search in the storage: which count, and whether the search is finished."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import optuna
from optuna.trial import FrozenTrial

from rankwright.study.planning.same_study import check_same, check_same_method
from rankwright.study.records.locks import lock_folder
from rankwright.study.tuning.sampler import SeededSampler
from rankwright.study.tuning.search_spec import SearchSpec
from rankwright.study.tuning.storage import Storage
from rankwright.study.tuning.trials import counts, is_complete, is_open, keep_one_per_place

DESCRIPTION = "rankwright"
"""User attribute of an Optuna study that holds the settings its trials depend on."""


@dataclass
class TrialStore:
    """The Optuna study that holds the trials of one search.

    If all trials of a search fail, the next command starts another attempt, in a study of its own.

    Attributes:
        spec: The search.
        storage: The storage.
        attempt: Number of the attempt, from 1.
    """

    spec: SearchSpec
    storage: Storage
    attempt: int = field(default=1, init=False)

    @property
    def name(self) -> str:
        """The name of the Optuna study, the same on all machines that share the storage."""
        suffix = "" if self.attempt == 1 else f"/again-{self.attempt}"
        spec = self.spec
        return f"{spec.plan.record.name}/{spec.task}/{spec.method.label}{suffix}"

    def lock(self) -> contextlib.AbstractContextManager[bool]:
        """Lock the trials against processes with the same folder, for the time of a request.

        SQLite locks no row: two processes could take the same trial, or one too many.
        """
        return lock_folder(self.spec.plan.folder.path / "tuning")

    def open(self) -> None:
        """Create the study, with the untuned method as its first trial, or find it again.

        Attempts of earlier commands whose trials all failed are left as they are.

        Raises:
            MethodError: The storage holds trials of another study under this name.
        """
        with self.lock():
            while self.all_failed(study := self._create()):
                self.attempt += 1
            study.enqueue_trial(self.spec.first_values, skip_if_exists=True)

    def load(self) -> optuna.Study:
        """Return the study that `open` created, read-only: SQLite has one writer at a time."""
        sampler = SeededSampler(self.spec.task, self.spec.space)
        return optuna.load_study(study_name=self.name, storage=self.storage, sampler=sampler)

    def trials(self, study: optuna.Study) -> list[FrozenTrial]:
        """Return the first trials that count, run or wait, at most as many as the search has.

        Machines that ask at the same time may make more trials; all machines leave out the same.
        """
        trials = study.get_trials(deepcopy=False)
        return keep_one_per_place(t for t in trials if is_open(t) or counts(t))[
            : self.spec.trial_count
        ]

    def is_finished(self, study: optuna.Study) -> bool:
        """Return whether the search has all its trials and none of them is open."""
        return self._are_all_over(self.trials(study))

    def all_failed(self, study: optuna.Study) -> bool:
        """Return whether the search is finished and no trial has a value."""
        trials = self.trials(study)
        return self._are_all_over(trials) and not any(map(is_complete, trials))

    def _are_all_over(self, trials: Sequence[FrozenTrial]) -> bool:
        return len(trials) == self.spec.trial_count and all(map(counts, trials))

    def _create(self) -> optuna.Study:
        """Return the study of this attempt, created if it does not exist."""
        greater = self.spec.task_record.greater_is_better
        study = optuna.create_study(
            storage=self.storage,
            study_name=self.name,
            direction="maximize" if greater else "minimize",
            load_if_exists=True,
        )
        self._check_same(study)
        return study

    def _check_same(self, study: optuna.Study) -> None:
        """Refuse trials of another study with the same name."""
        present = self.spec.dependencies
        if DESCRIPTION not in study.user_attrs:
            study.set_user_attr(DESCRIPTION, present)
        for name, value in study.user_attrs[DESCRIPTION].items():
            check = check_same_method if name == "method" else check_same
            check(name, value, present[name])
