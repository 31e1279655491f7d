#!/usr/bin/env bash
# RecJPQPrune's experiments (arXiv:2505.00560) on trained models; writes docs/results/recjpqprune/<name>.json.
#
#   runs/recjpqprune.sh WORK NAME MODEL LOG [NAME MODEL LOG ...]     exports real queries of every model first:
#       100,000 (QUERIES), or as many as the log has test users; oss-edits has 75,773, so take two models of it
#   runs/recjpqprune.sh EXPORT ...                                   folders that `everyitem export` wrote, as they are
#
# Table 2 (median and p95 of every method), sub-items per step, K, share of the items scored, the slowest 5 % of the
# users, and the number of queries on which any algorithm answers otherwise than PQTopK. What is already in
# docs/results/recjpqprune is not done again. Then: python runs/tabulate.py
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
queries=${QUERIES:-100000}
out=docs/results/recjpqprune
export OMP_NUM_THREADS=1

measure() { # name, export folder
    local missing=()
    grep -qs '"methods"' "$out/$1.json" || missing+=(times)
    grep -qs '"safety"' "$out/$1.json" || missing+=(safety)
    [[ -z ${missing[*]} ]] || .venv/bin/python benchmarks/recjpqprune.py "$2" --out "$out/$1.json" --parts "${missing[@]}"
}

if [[ -e ${1:?name a folder}/codes.npy ]]; then
    for export in "$@"; do measure "$(basename "$export")" "$export"; done
    exit
fi
work=$1
shift
while (($#)); do
    name=$1 model=$2 log=$3
    shift 3
    [[ -e $work/$name/queries.npy ]] ||
        .venv/bin/everyitem export "$model" "$work/$name" --log "$log" --queries "$queries"
    measure "$name" "$work/$name"
done
