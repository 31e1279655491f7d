#!/usr/bin/env bash
# How many bytes, sub-items and dimensions do codes need? Trains SASRec with k-means codes of many shapes and with a vector
# per item; writes docs/results/code_sizes/<data set>/<shape>.json.
#
#   EVERYITEM_DATA=<folder of log folders> runs/code_sizes.sh WORK [EPOCHS] [DATA SET ...]
#
# Every model sees the log EPOCHS times (default 20), whatever that takes, on one thread, vectors alone (no memory). Share of
# the items scored and microseconds are of 1,000 real queries, top 10. What is there is not done again. Then: python
# runs/tabulate.py
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
data=${EVERYITEM_DATA:?set EVERYITEM_DATA to the folder that holds the log folders}
work=${1:?name a folder for the models}
epochs=${2:-20}
sets=("${@:3}")
[[ ${#sets[@]} -gt 0 ]] || sets=(amazon14-beauty)
source runs/models.sh

same=(--epochs "$epochs" --patience 1000 --memory 0)

pq() { # data set, M, B, D
    searched "docs/results/code_sizes/$1/M$2-B$3-D$4.json" "$work/$1/M$2-B$3-D$4" "$data/$1" \
        "${same[@]}" --codes kmeans --num-splits "$2" --num-sub-items "$3" --dim "$4"
}

for set in "${sets[@]}"; do
    measure "docs/results/code_sizes/$set/dense.json" "$work/$set/dense" "$data/$set" 600 "--time-users 0" \
        "${same[@]}" --items dense --dim 64
    for splits in 2 4 8 16; do
        for sub_items in 64 256; do pq "$set" "$splits" "$sub_items" 64; done
    done
    for dim in 128 256 512; do pq "$set" 8 256 "$dim"; done
    for dim in 128 256; do pq "$set" 16 256 "$dim"; done
done
