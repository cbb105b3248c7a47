#!/usr/bin/env bash
# Everything that is to be measured on an accelerator, within ten minutes, the most telling first.
#
#     PYTHONPATH=. bash benchmarks/gpu.sh results-gpu          # on an accelerator
#     PYTHONPATH=. bash benchmarks/gpu.sh results-gpu quick    # tiny sizes, on any machine
#     STAGES=kernels,latency PYTHONPATH=. bash benchmarks/gpu.sh results-gpu   # some of them
#
# The dependencies of pyproject.toml and a jax with CUDA have to be there; this package need not be
# installed. A stage takes three minutes at most and writes its JSON after every case. What fails or
# is stopped is said and makes the exit code 1; the next stage starts all the same.
#
# OUT/stages.jsonl   seconds and exit code of every stage (124: stopped at its limit)
# OUT/llama-*.json   Llama-3.2-1B's shape in bfloat16: seconds of the first batch, compiling
#                    included, prompts/s, and the pair scan as a share of the matmul peak
# OUT/graph*.json     attribution graphs on the same weights, one prompt; seconds and memory by length
# OUT/kernels.json   gathered, tiled, streamed and Pallas as shares of the copy bandwidth
# OUT/small.json     the shape `small` in float32 with `auto`
# OUT/latency.json   the demo, one prompt at a time: the first answer and the next ones
set -uo pipefail

out=$(realpath -m "${1:?usage: benchmarks/gpu.sh OUT [quick]}")
size=${2:-full}
cd "$(dirname "$0")/.."
mkdir -p "$out"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 COLUMNS=120
python=${PYTHON:-python3}
total=${LIMIT:-570}
only=${STAGES:-} # names between commas; all where none is given
failed=0

# stage NAME SECONDS COMMAND...: run a stage, or say why not.
stage() {
  local name=$1 most=$2 begin=$SECONDS code
  shift 2
  [[ -z $only || ,$only, == *,$name,* ]] || return 1
  ((most <= total - SECONDS)) || most=$((total - SECONDS))
  echo "== $name"
  if ((most < 10)); then
    echo "$name: not started, as the $total seconds in all are over"
    code=null
  else
    timeout -k 5 "$most" "$@"
    code=$?
  fi
  [[ $code == 0 ]] || { failed=1; echo "$name: FAILED, exit code $code"; }
  echo "{\"stage\": \"$name\", \"seconds\": $((SECONDS - begin)), \"exit\": $code}" >>"$out/stages.jsonl"
  [[ $code == 0 ]]
}

# A folder with room for 24 GiB of weights: in memory where there is much, else on the disk.
weights_folder() {
  local free
  free=$(df --output=avail -B1G /dev/shm 2>/dev/null | tail -1)
  if [[ $size == full ]] && ((${free:-0} >= 40)); then
    mktemp -d -p /dev/shm
  else
    mktemp -d
  fi
}

measure_all() {
  local shape=llama-3.2-1b prompts=24 batch=8 budgets=50,100 kernels=large small=small
  local lengths=64,512,2048
  local check='import jax; print(jax.devices()); assert jax.default_backend() != "cpu", "no accelerator"'
  if [[ $size == quick ]]; then
    shape=tiny prompts=8 batch=4 budgets=5,10 kernels=tiny small=tiny lengths=16,32
    check='import jax; print(jax.devices())'
  fi
  : >"$out/stages.jsonl"
  "$python" -c "$check" || return 1

  stage flags 200 "$python" -m benchmarks.studies.compile_flags --json "$out/flags.json"
  weights=$(weights_folder)
  trap 'rm -rf "$weights"' EXIT
  df -h "$weights"
  # A quarter of the features, should all of them take too long; the JSON says how many there are.
  if ! stage weights 150 "$python" -m benchmarks.parts.random_weights "$weights" --shape "$shape"; then
    rm -rf "$weights/transcoder"
    stage fewer-weights 60 "$python" -m benchmarks.parts.random_weights "$weights" --shape "$shape" \
      --features 8192 --keep-model
  fi
  if [[ -e $weights/transcoder/config.yaml ]]; then
    local prune=("$python" -m benchmarks.prune --shape "$shape" --weights "$weights"
      --dtype bfloat16)
    stage llama-fap 150 "${prune[@]}" --methods fap --budgets "$budgets" \
      --prompts "$prompts" --batch-size "$batch" --json "$out/llama-fap.json"
    stage llama-fap-large 120 "${prune[@]}" --methods fap --budgets "$budgets" \
      --prompts $((8 * batch)) --batch-size $((4 * batch)) --json "$out/llama-fap-large.json"
    # One budget: another one is other programs to compile.
    stage llama-fap-synergy 180 "${prune[@]}" --methods fap,fap-synergy --budgets "${budgets#*,}" \
      --prompts $((2 * batch)) --batch-size "$batch" --json "$out/llama-fap-synergy.json"
    # An attribution graph of 1,000 features; then of prompts of many lengths, each in a process.
    local graph=("$python" -m benchmarks.graph --shape "$shape" --weights "$weights" --no-demo
      --dtype bfloat16)
    stage graph 120 "${graph[@]}" --lengths "" --json "$out/graph.json"
    stage graph-lengths 150 "${graph[@]}" --prompts 1 --length-shape "$shape" \
      --lengths "$lengths" --json "$out/graph-lengths.json"
  else
    echo "there are no weights, so $shape is not measured"
  fi
  stage kernels 120 "$python" -m benchmarks.kernels --size "$kernels" --json "$out/kernels.json"
  stage small 120 "$python" -m benchmarks.prune --shape "$small" --dtype float32 \
    --methods fap,auto --prompts "$prompts" --batch-size "$batch" --budgets "$budgets" \
    --json "$out/small.json"
  # Its parent process describes the device while a child measures on it: neither takes it all.
  stage latency 150 env XLA_PYTHON_CLIENT_PREALLOCATE=false "$python" -m benchmarks.latency \
    --methods fap --prompts 5 --json "$out/latency.json"
  rm -f "$out"/*.part
  cat "$out/stages.jsonl"
  return "$failed"
}

measure_all 2>&1 | tee "$out/gpu.log"
exit "${PIPESTATUS[0]}"
