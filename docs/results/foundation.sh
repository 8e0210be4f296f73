#!/usr/bin/env bash
# The runs behind docs/results/foundation.md, one command each.
#   RANKWRIGHT_DATA=/folder/with/rte/cola/... STORIES=/folder/of/stories260k docs/results/foundation.sh [METHOD...]
# RANKWRIGHT_DATA holds one folder a data set, STORIES a Llama of 260 thousand parameters pretrained
# on TinyStories. A run that is there already is left alone, so the script can be started again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
: "${RANKWRIGHT_DATA:?names the folder that holds rte/, cola/, ...}" "${STORIES:?names the folder of the Llama}"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
runs=${RUNS:-runs/foundation}
RANKWRIGHT=${RANKWRIGHT:-.venv/bin/rankwright}
methods=("$@")
[ ${#methods[@]} -gt 0 ] || methods=(lora dora bidora xgblora)

declare -A fields=(
  [lora]="--method.r 8 --method.lora_alpha 16"
  [dora]="--method.r 8 --method.lora_alpha 16"
  [bidora]="--method.r 8 --method.lora_alpha 16 --method.unroll_steps 4 --method.search_fraction 0.3"
  [xgblora]="--method.rounds 16"
)
declare -A options=(
  [rte]="--model minilm --head-learning-rate 1e-2 --steps 120 --max-length 128"
  [cola]="--model minilm --head-learning-rate 1e-2 --steps 200"
  [stsb]="--model minilm --head-learning-rate 1e-2 --steps 160"
  [wnut17]="--model minilm --head-learning-rate 1e-2 --steps 120"
  [e2e]="--model $STORIES --steps 300 --eval-rows 100"
)
declare -A rates=([lora]=1e-3 [dora]=1e-3 [bidora]=1e-3 [xgblora]=2e-3)

for task in stsb wnut17 e2e cola rte; do
  for method in "${methods[@]}"; do
    output=$runs/$task-$method
    [ -e "$output/result.json" ] && continue
    rm -rf "$output"
    # shellcheck disable=SC2086
    "$RANKWRIGHT" train --method "$method" ${fields[$method]} ${options[$task]} \
      --task "examples/tasks/$task.yaml" --learning-rate "${rates[$method]}" --batch-size 16 \
      --seed "${SEED:-0}" --output "$output"
  done
done
