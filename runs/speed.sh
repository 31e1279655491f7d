#!/usr/bin/env bash
# How fast the best items are found: exported models and generated catalogues; writes benchmarks/record/<machine>/.
#
#   runs/speed.sh [EXPORT ...]      folders that `everyitem export MODEL EXPORT --log LOG --queries 1000` wrote
#
# Takes half an hour on an idle machine, a third of it to make tr13 and mf13 the first time. Then: python runs/tabulate.py
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export OMP_NUM_THREADS=1
bench=(.venv/bin/python benchmarks/scoring.py --record --seconds "${SECONDS_EACH:-2}")

for export in "$@"; do "${bench[@]}" --model "$export" --batch 1 64; done
"${bench[@]}" --kind tr13 --items 35000
"${bench[@]}" --kind tr13 --items 1300000 --k 10 100 --batch 1 64
"${bench[@]}" --kind tr13 --items 2200000 --cold
for kind in mf13 easy; do "${bench[@]}" --kind "$kind" --items 2200000; done
for kind in diffuse hard uniform; do "${bench[@]}" --kind "$kind" --items 1300000 --batch 1 64; done
"${bench[@]}" --kind tr13 --items 10000000
