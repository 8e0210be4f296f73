#!/usr/bin/env bash
# The learning-rate sweep behind docs/results/first_runs.md, BiDoRA; see first_runs.sh.
# shellcheck source=docs/results/prelude.sh
source "$(dirname "${BASH_SOURCE[0]}")/prelude.sh"
runs=${RUNS:-runs/bidora-rates}

sweep() { # sweep TASK OPTIONS...
  local task=$1
  shift
  for rate in 1e-5 1e-4 1e-3 3e-3 1e-2; do
    run "$runs/$task-$rate" --method bidora --method.unroll_steps 4 --method.search_fraction 0.2 \
      --method.retrain_from warm --task "examples/tasks/$task.yaml" \
      --learning-rate "$rate" --batch-size 16 "$@"
  done
}

sweep e2e --model "$STORIES" --metrics perplexity --steps 80 --eval-rows 100
sweep stsb --model minilm --head-learning-rate 1e-2 --steps 80 --max-length 64 --eval-rows 500
