#!/usr/bin/env bash
# datasets 5.2.0: a map that makes strings of a column of integers.
#
# Guess: the column has the type of the new values, as it has when integers become floats; under a new name the strings are
#        kept.
# Seen:  the strings become integers again, without a word: str(7) is written to the column and 7 is read from it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q datasets==5.2.0
cd "$work"
venv/bin/python -W ignore - <<'PY'
import datasets
from datasets import Dataset

datasets.disable_progress_bars()
numbers = Dataset.from_dict({"label": [7, 8]})
same = numbers.map(lambda row: {"label": str(row["label"])})
halves = numbers.map(lambda row: {"label": row["label"] / 2})
new = numbers.map(lambda row: {"name": str(row["label"])})
print(f"datasets {datasets.__version__}: strings {same['label'][:]}, halves {halves['label'][:]}, new column {new['name'][:]}")
assert same["label"][:] == [7, 8] and halves["label"][:] == [3.5, 4.0] and new["name"][:] == ["7", "8"]
PY
