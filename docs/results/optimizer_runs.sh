#!/usr/bin/env bash
# The runs behind docs/results/optimizer_runs.md, one command each.
#   RANKWRIGHT_DATA=/folder/with/rte/stsb/gsm8k STORIES=/folder/of/stories260k docs/results/optimizer_runs.sh [NAME...]
# TASKS narrows the tasks.
# shellcheck source=docs/results/prelude.sh
source "$(dirname "${BASH_SOURCE[0]}")/prelude.sh"
runs=${RUNS:-runs/optimizers}
names=("$@")
[ ${#names[@]} -gt 0 ] || names=(lora lora_plus rslora lora_fa sora ba_lora lora_pro lora_rite)

declare -A of_task=(
  [stsb]="--model minilm --max-length 64 --eval-rows 500 --head-learning-rate 1e-2 --steps 160"
  [rte]="--model minilm --max-length 64 --head-learning-rate 5e-3 --steps 200"
  [gsm8k]="--model $STORIES --steps 40 --batch-size 8 --eval-rows 50"
)
declare -A of_name=(
  [lora_rite]="--learning-rate 3e-4" # it moves all r directions of W alike
  [ba_lora]="--method.lora_alpha 8 --learning-rate 5e-4" # PiSSA's start, and its rate in first_runs.sh
  [lora_plus]="--learning-rate 5e-4" # B's is 16 times that
  [rslora]="--method.use_rslora true --learning-rate 5e-4" # s = 5.7 where LoRA has 2
)
declare -A of_both=( # xi times steps is 2, the gates' rate 4 xi
  [stsb-sora]="--method.xi 0.0125 --method.gate_lr 0.05"
  [rte-sora]="--method.xi 0.005 --method.gate_lr 0.02"
  [gsm8k-sora]="--method.xi 0.02 --method.gate_lr 0.08"
)

for task in ${TASKS:-stsb rte gsm8k}; do
  for name in "${names[@]}"; do
    # shellcheck disable=SC2086
    run "$runs/$task-$name" --method "${name/rslora/lora}" --method.r 8 --method.lora_alpha 16 \
      --task "examples/tasks/$task.yaml" --batch-size 16 ${of_task[$task]} --learning-rate 1e-3 \
      ${of_name[$name]:-} ${of_both[$task-$name]:-} --seed "${SEED:-0}"
  done
done
