#!/usr/bin/env bash
# Optuna 5.0.0: a study that is loaded again with TPESampler(seed=0).
#
# Guess: the seed makes the whole study reproducible: three trials and then three give what six in one go give.
# Seen:  the loaded study's sampler starts from the seed again, so its random trials repeat the first ones exactly, and half of
#        the budget is spent on known points. Storage keeps trials, not the sampler's state.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q optuna==5.0.0
cd "$work"
venv/bin/python -W ignore - <<'PY'
import optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)


def objective(trial):
    return trial.suggest_float("x", 0, 1)


def sampler():
    return optuna.samplers.TPESampler(seed=0)


whole = optuna.create_study(sampler=sampler())
whole.optimize(objective, n_trials=6)
storage = "sqlite:///study.db"
optuna.create_study(storage=storage, study_name="s", sampler=sampler()).optimize(objective, n_trials=3)
resumed = optuna.load_study(storage=storage, study_name="s", sampler=sampler())
resumed.optimize(objective, n_trials=3)
at_once, in_two = ([round(trial.params["x"], 3) for trial in study.trials] for study in (whole, resumed))
print(f"optuna {optuna.__version__}: six trials at once {at_once}, three and three {in_two}")
assert len(set(at_once)) == 6 and at_once[:3] == in_two[:3] == in_two[3:]
PY
