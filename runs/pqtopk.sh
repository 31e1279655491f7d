#!/usr/bin/env bash
# PQTopK's main table (arXiv:2408.09992): SASRec and gBERT4Rec with 8 bytes per item, D = 512; encoder, and scoring by
# the dense product, RecJPQ, PQTopK and ours; writes docs/results/pqtopk/<data set>-<model>.json and, by
# runs/recjpqprune.sh, docs/results/recjpqprune/<data set>-<model>.json.
#
#   EVERYITEM_DATA=<folder of log folders> runs/pqtopk.sh WORK [MINUTES] [DATA SET ...]
#
# globo-news stands for Booking.com, oss-edits for Gowalla. MINUTES are the limit of each model (default 120). Timings
# want an idle machine. Then: python runs/tabulate.py
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
data=${EVERYITEM_DATA:?set EVERYITEM_DATA to the folder that holds the log folders}
work=${1:?name a folder for the models}
minutes=${2:-120}
sets=("${@:3}")
[[ ${#sets[@]} -gt 0 ]] || sets=(globo-news oss-edits)
source runs/models.sh
published=(--memory 0 --dim 512 --num-splits 8 --codes svd --length 200 --loss gbce --num-negatives 256)

for set in "${sets[@]}"; do
    for backbone in sasrec gbert4rec; do
        name=$set-$backbone-512
        measure "docs/results/pqtopk/$name.json" "$work/$name" "$data/$set" "$minutes" "" "${published[@]}" --backbone "$backbone"
        runs/recjpqprune.sh "$work/exports" "$name" "$work/$name" "$data/$set"
    done
done
