#!/usr/bin/env bash
# The studies of this folder, one after the other: docs/results/studies/run.sh [NAME...]
# RANKWRIGHT_DATA is the folder that holds rte/, cola/, ...; stdlib-docs needs none. Whatever is
# finished is not done again, so the script can be stopped and started at any time; elsewhere, too,
# after: cp -r docs/results/records/NAME runs/studies/
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
RANKWRIGHT=${RANKWRIGHT:-.venv/bin/rankwright}
names=("$@")
[ ${#names[@]} -gt 0 ] || names=(stdlib-docs stdlib-docs-ten small-data tiny-data bidora xgblora tasks rte cola others others-classes others-rte others-cola gates rank split long)

for name in "${names[@]}"; do
  "$RANKWRIGHT" compare --config "docs/results/studies/$name.yaml" --jobs "${JOBS:-1}"
done
