"""One request of a study, in the process that `rankwright.worker` starts."""

from __future__ import annotations

import sys
from pathlib import Path

import rankwright.methods  # noqa: F401  registers every method
from rankwright.errors import MethodError, TrainingError
from rankwright.study.execution.measured_run import carry_out_measurement
from rankwright.study.execution.protocol import ERROR, FAILED, OUTCOME, STOPPED, ErrorReport
from rankwright.study.execution.reported_run import carry_out_run
from rankwright.study.execution.session import Session
from rankwright.study.records.locks import lock_folder
from rankwright.study.records.tuning import TrialOutcome
from rankwright.tasks import TaskError


def main(folder: Path, imports: float) -> int:
    """Carry out the request in `folder`, and return the exit status.

    Args:
        folder: Folder with the run's description and the request.
        imports: Seconds since the process was started.
    """
    with lock_folder(folder):
        (folder / ERROR).unlink(missing_ok=True)
        try:
            done = carry_out(Session(folder, imports))
        except (MethodError, TaskError, TrainingError) as error:
            ErrorReport(message=str(error)).save(folder / ERROR)
            print(error, file=sys.stderr, flush=True)
            return FAILED
    return 0 if done else STOPPED


def carry_out(session: Session) -> bool:
    """Carry out a request; return False after SIGTERM, with a checkpoint."""
    if session.request.purpose == "run":
        return carry_out_run(session)
    outcome = session.folder.path / OUTCOME
    if outcome.exists():
        return True
    if session.request.purpose == "trial":
        return carry_out_trial(session, outcome)
    return carry_out_measurement(session, outcome)


def carry_out_trial(session: Session, outcome: Path) -> bool:
    """Train, and write the primary metric on the tuning rows; return False after SIGTERM.

    Args:
        session: The process.
        outcome: File of the `TrialOutcome`.
    """
    job = session.set_up()
    if not job.run():
        return False
    value = job.evaluate("validation")[job.prepared.task.primary_metric]
    passes = job.trainer.cost().passes
    TrialOutcome(value=value, passes=passes, seconds=session.seconds).save(outcome)
    return True
