#!/usr/bin/env bash
# Optuna 5.0.0: suggest_categorical with choices that are equal in Python ([1, True], [0, False]).
#
# Guess: trial.params has the value that the objective was given; or choices that cannot be told apart are refused.
# Seen:  the objective is given both, and the study records the first of the equal ones for all trials. best_params then name a
#        setting that was not the one that was run.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q optuna==5.0.0
cd "$work"
venv/bin/python - <<'PY'
import optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)
seen = {}
for choices in ([1, True], [0, False]):
    given = []

    def objective(trial):
        given.append(trial.suggest_categorical("warmup", choices))
        return 0.0

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=12)
    recorded = [trial.params["warmup"] for trial in study.trials]
    seen[str(choices)] = sorted(set(map(repr, given))), sorted(set(map(repr, recorded)))
print(f"optuna {optuna.__version__}: given and recorded: {seen}")
assert seen == {"[1, True]": (["1", "True"], ["1"]), "[0, False]": (["0", "False"], ["0"])}
PY
