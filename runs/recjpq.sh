#!/usr/bin/env bash
# RecJPQ's comparison (arXiv:2312.06165): a vector per item against 8 bytes per item, codes by SVD, BPR or at random,
# D = 512, and ours beside it; writes docs/results/recjpq/<data set>/<model>-<items>.json.
#
#   EVERYITEM_DATA=<folder of log folders> runs/recjpq.sh WORK [MINUTES] [DATA SET ...]
#
# globo-news stands for Booking.com, oss-edits for Gowalla (no dense model of it: its table alone would train for days).
# As published: SASRec with binary cross-entropy and one negative, BERT4Rec with the full softmax (sampled from 100,000
# items on). MINUTES are the limit of each (default 120). Then: python runs/tabulate.py
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
data=${EVERYITEM_DATA:?set EVERYITEM_DATA to the folder that holds the log folders}
work=${1:?name a folder for the models}
minutes=${2:-120}
sets=("${@:3}")
[[ ${#sets[@]} -gt 0 ]] || sets=(ml-1m globo-news oss-edits)
source runs/models.sh

for set in "${sets[@]}"; do
    asking="" full=full-softmax
    [[ $set == ml-1m ]] && asking="--exclude-seen"
    [[ $set == oss-edits ]] && full=softmax
    run() { # name, options of `everyitem train`
        measure "docs/results/recjpq/$set/$1.json" "$work/$set/$1" "$data/$set" "$minutes" "$asking" --memory 0 --dim 512 "${@:2}"
    }
    for backbone in sasrec gbert4rec; do
        options=(--backbone "$backbone")
        if [[ $backbone == sasrec ]]; then options+=(--loss bce); else options+=(--loss "$full"); fi
        [[ $set == oss-edits ]] || run "$backbone-dense" "${options[@]}" --items dense --no-warm-start
        for codes in svd bpr random; do run "$backbone-$codes" "${options[@]}" --codes "$codes" --num-splits 8; done
        run "$backbone-ours" --backbone "$backbone" # everything but width and backbone as `everyitem train` has it
    done
done
