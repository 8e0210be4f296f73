#!/usr/bin/env bash
# The learning-rate sweep behind docs/results/first_runs.md, BiDoRA; see first_runs.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
: "${RANKWRIGHT_DATA:?names the folder that holds stsb/ and e2e/}" "${STORIES:?names the folder of the Llama}"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
runs=${RUNS:-runs/bidora-rates}
RANKWRIGHT=${RANKWRIGHT:-.venv/bin/rankwright}

sweep() { # sweep TASK OPTIONS...
  local task=$1
  shift
  for rate in 1e-5 1e-4 1e-3 3e-3 1e-2; do
    local output=$runs/$task-$rate
    [ -e "$output/result.json" ] && continue
    rm -rf "$output"
    "$RANKWRIGHT" train --method bidora --method.unroll_steps 4 --method.search_fraction 0.2 \
      --method.retrain_from warm --task "examples/tasks/$task.yaml" \
      --learning-rate "$rate" --batch-size 16 --output "$output" "$@"
  done
}

sweep e2e --model "$STORIES" --metrics perplexity --steps 80 --eval-rows 100
sweep stsb --model minilm --head-learning-rate 1e-2 --steps 80 --max-length 64 --eval-rows 500
