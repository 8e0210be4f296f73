"""Many runs on equal terms: plan them, carry them out, and keep what each of them gave."""

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
