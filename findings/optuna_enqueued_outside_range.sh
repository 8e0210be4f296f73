#!/usr/bin/env bash
# Optuna 5.0.0: enqueue_trial with a value that the search space does not have.
#
# Guess: an error, as for a categorical choice that does not exist; or the nearest allowed value.
# Seen:  the number is handed to the objective as it is, with a warning: 50.0 from suggest_float("x", 0, 1), 3 from
#        suggest_int("k", 0, 10, step=2). It can become the best trial.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q optuna==5.0.0
cd "$work"
venv/bin/python -W ignore - <<'PY'
import optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)


def first(fixed, suggest):
    study = optuna.create_study(direction="maximize")
    study.enqueue_trial(fixed)
    try:
        study.optimize(lambda trial: float(suggest(trial)), n_trials=1)
    except ValueError as error:
        return f"ValueError: {error}"
    return study.best_params


outside = first({"x": 50.0}, lambda trial: trial.suggest_float("x", 0, 1))
between = first({"k": 3}, lambda trial: trial.suggest_int("k", 0, 10, step=2))
unknown = first({"c": "z"}, lambda trial: len(trial.suggest_categorical("c", ["a", "b"])))
print(f"optuna {optuna.__version__}: {outside}, {between}, {unknown}")
assert outside == {"x": 50.0} and between == {"k": 3} and unknown.startswith("ValueError")
PY
