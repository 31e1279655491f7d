#!/usr/bin/env bash
# Single-step decoding against items that are written token by token: quality on one split, latency with one backbone.
#
#   EVERYITEM_DATA=<folder of log folders> runs/decoding.sh WORK [EPOCHS] [DATA SET ...]
#
# Trains on one thread, vectors alone and at most EPOCHS (default 30) passes or until validation stops improving: dense, PQ
# and two-level items, and semantic ids of every making. WORK keeps the models; what is there is not trained again.
# Then benchmarks/decoding.py (on an idle machine) writes docs/results/decoding/<data set>.json; python runs/tabulate.py
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
data=${EVERYITEM_DATA:?set EVERYITEM_DATA to the folder that holds the log folders}
work=${1:?name a folder for the models}
epochs=${2:-30}
sets=("${@:3}")
[[ ${#sets[@]} -gt 0 ]] || sets=(amazon14-beauty amazon18-videogames)
read -ra options <<<"${OPTIONS:-}"
export OMP_NUM_THREADS=1

run() { # data set, model name, options of `everyitem train`
    local set=$1 model=$work/$1/$2 resume=()
    [[ -e $model/metrics.json ]] && return
    [[ -e $model/training/settings.json ]] && resume=(--resume) # an interrupted run goes on
    .venv/bin/everyitem train "$data/$set" "$model" --threads 1 --memory 0 --epochs "$epochs" \
        "${resume[@]}" "${options[@]}" "${@:3}"
}

for set in "${sets[@]}"; do
    run "$set" dense --items dense
    run "$set" pq --items pq
    run "$set" two-level --items two-level
    run "$set" ids-collaborative --items semantic-ids --codes dense
    run "$set" ids-balanced --items semantic-ids --codes dense --quantiser balanced
    run "$set" ids-rq-vae --items semantic-ids --codes dense --quantiser rq-vae
    run "$set" ids-title --items semantic-ids --codes text
    run "$set" ids-published --items semantic-ids --codes given
    m=$work/$set
    .venv/bin/python benchmarks/decoding.py "$data/$set" "docs/results/decoding/$set.json" \
        "$m/dense" "$m/pq" "$m/two-level" \
        --multi-token "$m/ids-collaborative" "$m/ids-balanced" "$m/ids-rq-vae" "$m/ids-title" "$m/ids-published"
done
