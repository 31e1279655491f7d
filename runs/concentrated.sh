#!/usr/bin/env bash
# What does it cost to make scores concentrate, and what does it save? Trains SASRec with item codes and a growing weight
# of the per-split cross-entropy, and once with that alone (RPG); writes docs/results/concentrated/<data set>/<weight>.json.
#
#   EVERYITEM_DATA=<folder of log folders> runs/concentrated.sh WORK [EPOCHS] [DATA SET ...]
#
# Every model sees the log EPOCHS times (default 20), whatever that takes, on one thread, and has 8 bytes per item (k-means
# codes, so that nothing goes into a dense model); NDCG is of vectors alone (no memory). Share of the items scored and
# microseconds are of 1,000 real queries, top 10. What is there is not done again. Then: python runs/tabulate.py
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
data=${EVERYITEM_DATA:?set EVERYITEM_DATA to the folder that holds the log folders}
work=${1:?name a folder for the models}
epochs=${2:-20}
sets=("${@:3}")
[[ ${#sets[@]} -gt 0 ]] || sets=(amazon14-beauty globo-news oss-edits-thin oss-edits)
source runs/models.sh
same=(--epochs "$epochs" --patience 1000 --memory 0 --codes kmeans --num-splits 8 --dim 128)

run() { # data set, name, options of `everyitem train`
    searched "docs/results/concentrated/$1/$2.json" "$work/$1/$2" "$data/$1" "${same[@]}" "${@:3}"
}

for set in "${sets[@]}"; do
    for weight in 0 0.003 0.01 0.03 0.1 0.3; do run "$set" "$weight" --concentration "$weight"; done
    run "$set" alone --loss split-softmax
done
