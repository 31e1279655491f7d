#!/usr/bin/env bash
# Trains and evaluates every model on the real data sets and writes docs/results/<data set>/<model>.json.
#
#   EVERYITEM_DATA=<folder of log folders> runs/real_data.sh WORK [MINUTES] [DATA SET ...]
#
# Every model of a data set gets the same MINUTES of training on one thread (default 3). WORK keeps the models.
# What is already in docs/results is not done again: delete a file to repeat it. Then: python runs/tabulate.py
# A data set is a log folder; `everyitem prepare ml-1m $EVERYITEM_DATA/ml-1m` makes that of MovieLens 1M, for example.
# What a data set needs otherwise, to stand beside published figures or to fit, is in `training` and `asking`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
data=${EVERYITEM_DATA:?set EVERYITEM_DATA to the folder that holds the log folders}
work=${1:?name a folder for the models}
minutes=${2:-3}
sets=("${@:3}")
[[ ${#sets[@]} -gt 0 ]] || sets=(amazon14-beauty amazon14-sports amazon18-videogames uci-online-retail globo-news oss-edits-thin oss-edits)
source runs/models.sh

run() { # data set, model name, options of `everyitem train`
    local set=$1 name=$2
    shift 2
    # the baselines are the same for every model of a data set: once is enough
    local asking
    asking=$(asking "$set")
    [[ $name == default ]] && asking+=" --baselines"
    # shellcheck disable=SC2046
    measure "docs/results/$set/$name.json" "$work/$set/$name" "$data/$set" "$minutes" "$asking" $(training "$set" "$name") "$@"
}

training() { # options of `everyitem train` for a data set and a model
    case $1/$2 in
        # catalogues of more than 200,000 items, whose codes do not come from a dense model
        oss-edits*/*-pq | oss-edits*/default) echo --dim 128 --dropout 0.1 ;;
        ml-1m/*) echo --length 200 ;; # as published
    esac
}

asking() { # options of `everyitem evaluate` for a data set
    case $1 in
        ml-1m) echo --exclude-seen ;; # as published
    esac
}

# model by model, so that an interrupted run has the first models of every set; what `everyitem train` makes by itself
# first, then the published architectures, which know nothing but vectors
for set in "${sets[@]}"; do run "$set" default; done
for set in "${sets[@]}"; do
    # a dense table of 1.3M items costs 1 GB per 64 dimensions with its optimiser, and a full update every step
    [[ $set == oss-edits ]] || run "$set" default-dense --items dense
done
for set in "${sets[@]}"; do run "$set" sasrec-pq --memory 0; done
for set in "${sets[@]}"; do
    run "$set" sasrec-dense --items dense --memory 0
done
for set in "${sets[@]}"; do run "$set" esasrec-pq --backbone esasrec --memory 0; done
for set in "${sets[@]}"; do
    [[ $set == oss-edits ]] || run "$set" esasrec-dense --backbone esasrec --items dense --memory 0
done
gbce=(--loss gbce --num-negatives 256 --memory 0)
for set in "${sets[@]}"; do run "$set" gsasrec-pq "${gbce[@]}"; done
for set in "${sets[@]}"; do run "$set" gbert4rec-pq --backbone gbert4rec "${gbce[@]}"; done
