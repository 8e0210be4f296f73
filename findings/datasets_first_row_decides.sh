#!/usr/bin/env bash
# datasets 5.2.0: rows of which the first lacks a column.
#
# Guess: a column that some rows have is a column, with None in the others: so it is when a JSON file is read.
# Seen:  Dataset.from_list takes its columns from the first row, and map those of the first result: the values of later rows are
#        dropped without a word.
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
rows = Dataset.from_list([{"prompt": "a"}, {"prompt": "b", "answer": "c"}])
mapped = Dataset.from_dict({"length": [1, 9]}).map(lambda row: {"long": True} if row["length"] > 5 else {})
with open("rows.jsonl", "w") as file:
    file.write('{"prompt": "a"}\n{"prompt": "b", "answer": "c"}\n')
read = Dataset.from_json("rows.jsonl")
print(f"datasets {datasets.__version__}: from_list {rows[:]}, map {mapped[:]}, from_json {read[:]}")
assert rows[:] == {"prompt": ["a", "b"]} and mapped[:] == {"length": [1, 9]}
assert read[:] == {"prompt": ["a", "b"], "answer": [None, "c"]}
PY
