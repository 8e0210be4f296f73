#!/usr/bin/env bash
# Optuna 5.0.0: suggest_float twice in one trial with the same name and different ranges.
#
# Guess: an error, or a second parameter: the value lies in the range that was asked for.
# Seen:  the first value again, outside the second range, with a warning. A different kind (suggest_int after suggest_float) is
#        an error.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q optuna==5.0.0
cd "$work"
venv/bin/python -W ignore - <<'PY'
import warnings

import optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)
study = optuna.create_study()
trial = study.ask()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    first, second = trial.suggest_float("rate", 0, 1), trial.suggest_float("rate", 5, 6)
try:
    trial.suggest_int("rate", 0, 1)
    kind = "no error"
except ValueError as error:
    kind = f"ValueError: {error}"
print(f"optuna {optuna.__version__}: {first:.3f} from 0 to 1, {second:.3f} from 5 to 6")
print("warning:", caught[-1].message)
print("suggest_int:", kind)
assert first == second < 1 and caught and kind.startswith("ValueError")
PY
