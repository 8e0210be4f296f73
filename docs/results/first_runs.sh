#!/usr/bin/env bash
# The runs behind docs/results/first_runs.md, one command each.
#   RANKWRIGHT_DATA=/folder/with/rte/cola/... STORIES=/folder/of/stories260k docs/results/first_runs.sh [METHOD...]
# TASKS narrows the tasks.
# shellcheck source=docs/results/prelude.sh
source "$(dirname "${BASH_SOURCE[0]}")/prelude.sh"
runs=${RUNS:-runs/first}
methods=("$@")
[ ${#methods[@]} -gt 0 ] || methods=(lora dora bidora xgblora cola rac_lora olora pissa flat_lora)

declare -A of_task=(
  [rte]="--model minilm --max-length 64 --head-learning-rate 5e-3 --learning-rate 1e-3 --steps 400"
  [cola]="--model minilm --max-length 64 --head-learning-rate 5e-3 --learning-rate 5e-4 --steps 800"
  [stsb]="--model minilm --head-learning-rate 1e-2 --learning-rate 1e-3 --steps 160"
  [wnut17]="--model minilm --head-learning-rate 1e-2 --learning-rate 1e-3 --steps 120"
  [e2e]="--model $STORIES --learning-rate 1e-3 --steps 300 --eval-rows 100"
)
declare -A of_method=(
  [bidora]="--method.unroll_steps 4"
  [xgblora]="--method.r 1 --method.lora_alpha 2 --learning-rate 2e-3"
  [olora]="--method.lora_alpha 8 --learning-rate 5e-4"
  [pissa]="--method.lora_alpha 8 --learning-rate 5e-4"
)
short_search="--method.search_fraction 0.3"
warm="--method.search_fraction 0.2 --method.retrain_from warm"
all_layers="--method.layers_per_round null"
declare -A of_both=( # later options win
  [stsb-bidora]=$short_search [wnut17-bidora]=$short_search [e2e-bidora]=$short_search
  [cola-bidora]=$warm [rte-bidora]=$warm [rte-lora]="--steps 600"
  [stsb-xgblora]="--method.rounds 16" [wnut17-xgblora]="--method.rounds 16"
  [e2e-xgblora]="--method.rounds 16" [rte-xgblora]="--method.rounds 8 $all_layers"
  [cola-xgblora]="--method.rounds 4 $all_layers --learning-rate 1e-3 --steps 1200"
)
for method in cola rac_lora olora pissa flat_lora; do # of the second table: half of the steps
  of_both[e2e-$method]="--steps 150" of_both[rte-$method]="--steps 200"
done

for task in ${TASKS:-stsb wnut17 e2e cola rte}; do
  for method in "${methods[@]}"; do
    # shellcheck disable=SC2086
    run "$runs/$task-$method" --method "$method" --method.r 8 --method.lora_alpha 16 \
      --task "examples/tasks/$task.yaml" ${of_task[$task]} ${of_method[$method]:-} \
      ${of_both[$task-$method]:-} --batch-size 16 --seed "${SEED:-0}"
  done
done
