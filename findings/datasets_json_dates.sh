#!/usr/bin/env bash
# datasets 5.2.0: strings in a JSON file that look like dates.
#
# Guess: JSON has no dates: a string is read as a string.
# Seen:  a column whose values all look like ISO dates becomes timestamps, and rows have datetime objects, which a tokenizer
#        refuses and str() writes with a time of day. One other value in the column, and all are strings. Dataset.from_list
#        keeps them.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q datasets==5.2.0
cd "$work"
venv/bin/python -W ignore - <<'PY'
import json

import datasets
from datasets import Dataset

datasets.disable_progress_bars()


def read(name, answers):
    with open(name, "w") as file:
        file.writelines(json.dumps({"answer": answer}) + "\n" for answer in answers)
    return Dataset.from_json(name)["answer"][:]


dates = ["2020-01-01", "1969-07-20"]
alone, mixed = read("dates.jsonl", dates), read("mixed.jsonl", [*dates, "unknown"])
listed = Dataset.from_list([{"answer": date} for date in dates])["answer"][:]
print(f"datasets {datasets.__version__}: {alone}; beside another word {mixed}; from_list {listed}")
assert str(alone[0]) == "2020-01-01 00:00:00" and mixed == [*dates, "unknown"] and listed == dates
PY
