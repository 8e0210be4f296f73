#!/usr/bin/env bash
# submitit 1.5.4: the same job with cluster="debug" and cluster="local".
#
# Guess: debug runs the job in this process, otherwise the same: as many tasks, and the same exception for a job that fails.
# Seen:  debug runs one task where tasks_per_node=2 says two. A failed job's exception() is the KeyError itself in debug;
#        locally it is a FailedJobError with the traceback as text and no cause, so `except KeyError` works in debug alone. The
#        failed local job's state is FINISHED.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q submitit==1.5.4
cd "$work"
cat > jobs.py <<'PY'
def rank():
    import submitit

    return submitit.JobEnvironment().global_rank


def fail():
    raise KeyError("missing")
PY
PYTHONPATH=. venv/bin/python -W ignore - <<'PY'
import submitit
from jobs import fail, rank

seen = {}
for cluster in ("debug", "local"):
    executor = submitit.AutoExecutor("logs", cluster=cluster)
    executor.update_parameters(timeout_min=1, tasks_per_node=2)
    ranks = executor.submit(rank).results()
    executor.update_parameters(tasks_per_node=1)
    job = executor.submit(fail)
    error = job.exception()
    seen[cluster] = ranks, type(error).__name__, error.__cause__, job.state
print(f"submitit {submitit.__version__}: tasks, exception, its cause, state: {seen}")
assert seen["debug"][:2] == ([0], "KeyError")
assert seen["local"] == ([0, 1], "FailedJobError", None, "FINISHED")
PY
