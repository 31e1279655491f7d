#!/usr/bin/env bash
# gSASRec's comparison (arXiv:2308.07192): binary cross-entropy with one negative against gBCE with 256, as published
# (D = 128, dropout .5, 200 events, a vector per item, random start); writes docs/results/gsasrec/<data set>/<model>.json.
#
#   EVERYITEM_DATA=<folder of log folders> runs/gsasrec.sh WORK [MINUTES] [DATA SET ...]
#
# MovieLens 1M excludes seen items, as published: `everyitem prepare ml-1m $EVERYITEM_DATA/ml-1m --raw ...` makes it.
# MINUTES are the limit (default 120); training stops when validation no longer improves. Then: python runs/tabulate.py
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
data=${EVERYITEM_DATA:?set EVERYITEM_DATA to the folder that holds the log folders}
work=${1:?name a folder for the models}
minutes=${2:-120}
sets=("${@:3}")
[[ ${#sets[@]} -gt 0 ]] || sets=(ml-1m amazon14-beauty globo-news)
source runs/models.sh
published=(--items dense --memory 0 --no-warm-start --dim 128 --dropout 0.5 --length 200 --patience 20)

for set in "${sets[@]}"; do
    asking=""
    [[ $set == ml-1m ]] && asking="--exclude-seen"
    run() { # name, options of `everyitem train`
        measure "docs/results/gsasrec/$set/$1.json" "$work/$set/$1" "$data/$set" "$minutes" "$asking" "${published[@]}" "${@:2}"
    }
    run sasrec --loss bce
    run gsasrec --loss gbce --num-negatives 256
    run sasrec-softmax
    run esasrec-softmax --backbone esasrec
done
