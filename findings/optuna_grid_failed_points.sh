#!/usr/bin/env bash
# Optuna 5.0.0: GridSampler and BruteForceSampler when the objective raises once for one point.
#
# Guess: a failed trial has no value, so its point is still to be done: the search goes on until each point has one.
# Seen:  the point counts as done. Both stop after three trials for three points, with a budget of ten, and the value of the
#        point that failed is missing.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q optuna==5.0.0
cd "$work"
venv/bin/python -W ignore - <<'PY'
import optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)
ended = {}
for sampler in (optuna.samplers.GridSampler({"rank": [1, 2, 3]}, seed=0), optuna.samplers.BruteForceSampler(seed=0)):
    tried = []

    def objective(trial):
        rank = trial.suggest_int("rank", 1, 3)
        tried.append(rank)
        if rank == 2 and tried.count(2) == 1:
            raise ValueError("the disk was full")
        return rank

    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=10, catch=(ValueError,))
    ended[type(sampler).__name__] = sorted((trial.params["rank"], trial.state.name) for trial in study.trials)
print(f"optuna {optuna.__version__}: all trials: {ended}")
assert set(map(str, ended.values())) == {str([(1, "COMPLETE"), (2, "FAIL"), (3, "COMPLETE")])}
PY
