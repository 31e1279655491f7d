#!/usr/bin/env bash
# PQTopK's simulated scale (arXiv:2408.09992, section 5.3): a thousand to a billion items, 4 to 64 bytes each.
#
#   runs/pqtopk_scale.sh [LARGEST]
#
# Sizes whose codes do not fit into memory are left out, and so are ways to search that need more: a billion items of 8
# bytes need 9 GB for PQTopK, 29 GB for ours. Appends to benchmarks/record/<machine>/<date>-scale.tsv; rows that are
# done again replace the older ones. Takes an hour on an idle machine, most of it for the billion. Then:
# python runs/tabulate.py
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
largest=${1:-1000000000}
export OMP_NUM_THREADS=1
bench=(.venv/bin/python benchmarks/pqtopk_scale.py --record)

for ((items = 1000; items <= largest; items *= 10)); do
    # from a hundred million on, peers that copy the codes leave no room for ours
    peers=--peers
    ((items >= 100000000)) && peers=--no-peers
    "${bench[@]}" --items "$items" "$peers"
    ((items >= 10000)) && "${bench[@]}" --items "$items" --kinds tr13 --num-splits 8 "$peers"
done
