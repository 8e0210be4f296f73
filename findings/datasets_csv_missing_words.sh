#!/usr/bin/env bash
# datasets 5.2.0: the words "NA", "null" and "None" in the text column of a CSV file.
#
# Guess: text is text: only an empty field may be missing. Quotes around the word make that plain.
# Seen:  "NA", "null" and "None" are None, quoted or not; "none" stays. A label or an answer that is such a word is lost.
#        keep_default_na=False keeps it.
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
with open("rows.csv", "w") as file:
    file.write('text,label\nNA,1\n"null",0\n"None",1\nnone,0\nyes,1\n')
words = Dataset.from_csv("rows.csv")["text"][:]
kept = Dataset.from_csv("rows.csv", keep_default_na=False)["text"][:]
print(f"datasets {datasets.__version__}: {words}; with keep_default_na=False {kept}")
assert words == [None, None, None, "none", "yes"] and kept == ["NA", "null", "None", "none", "yes"]
PY
