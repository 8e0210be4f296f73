"""Studies: many runs under equal conditions, tuned, repeated and reported.

Packages import downwards only; `planning` and `report` do not import each other::

    execution             the stages of a study and the processes of its runs; read `compare` first
    tuning                the search for hyperparameters, over Optuna
    planning | report     configuration, budgets and the plan | figures, plots, pages, model cards
    statistics            intervals and verdicts over seeds and rows
    records               typed records, and the files that hold them
    errors                exceptions that pass between stages
"""

from rankwright.study.records.examples import Examples
from rankwright.study.records.folder import StudyFolder
from rankwright.study.records.records import RunRecord, StudyRecord
from rankwright.study.records.tuning import TrialRecord, TuningRecord

__all__ = [
    "Examples",
    "RunRecord",
    "StudyFolder",
    "StudyRecord",
    "TrialRecord",
    "TuningRecord",
]
