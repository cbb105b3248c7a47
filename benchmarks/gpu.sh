#!/usr/bin/env bash
# Everything that is to be measured on an accelerator, in one go; unmeasured so far.
#
#     pip install -e '.[bench]' 'jax[cuda12]' && benchmarks/gpu.sh results-gpu
#
# Kernels (XLA and Pallas) as shares of the copy bandwidth, the pair scan as a share of the matmul
# peak, prompts per second of two shapes with and without synergy, in both dtypes.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-results-gpu}
mkdir -p "$out"

python -c 'import jax; print(jax.devices()); assert jax.default_backend() != "cpu", "no accelerator"'
python -m benchmarks.kernels --size large --json "$out/kernels.json"
for dtype in float32 bfloat16; do
  python -m benchmarks.prune --shape small --prompts 64 --batch-size 32 --dtype "$dtype" \
    --plain --json "$out/prune-small-$dtype.json"
done
for methods in fap fap,fap-synergy; do
  python -m benchmarks.prune --shape llama-3.2-1b --prompts 64 --batch-size 16 --dtype bfloat16 \
    --methods "$methods" --json "$out/prune-llama-${methods//,/-}.json"
done
python -m benchmarks.prune --shape gemma-2-2b --prompts 32 --batch-size 8 --dtype bfloat16 \
  --json "$out/prune-gemma.json"
