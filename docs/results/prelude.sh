# Sourced by the scripts of this folder: where they run, with what, and one run of theirs.
# RANKWRIGHT_DATA holds one folder a data set (rte/, stsb/, ...), STORIES a Llama of 260 thousand
# parameters pretrained on TinyStories.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
: "${RANKWRIGHT_DATA:?names the folder that holds rte/, stsb/, ...}" "${STORIES:?names the folder of the Llama}"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
RANKWRIGHT=${RANKWRIGHT:-.venv/bin/rankwright}

run() { # run OUTPUT OPTIONS...; a finished run is left alone, so a script can be started again
  local output=$1
  shift
  [ -e "$output/result.json" ] && return
  rm -rf "$output"
  "$RANKWRIGHT" train "$@" --output "$output"
}
