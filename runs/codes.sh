#!/usr/bin/env bash
# Which codes should items get? Trains SASRec with every code strategy, all else equal, and writes
# docs/results/codes/<data set>/<strategy>.json.
#
#   EVERYITEM_DATA=<folder of log folders> runs/codes.sh WORK [MINUTES] [DATA SET ...]
#
# Every strategy gets the same 32 bytes per item and the same MINUTES of training on one thread of core 0 (default 1);
# assigning the codes is not counted in them, except that "dense" spends half of them on its dense model. WORK keeps the
# models. What is already in docs/results/codes is not done again. Then: python runs/tabulate.py
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
data=${EVERYITEM_DATA:?set EVERYITEM_DATA to the folder that holds the log folders}
work=${1:?name a folder for the models}
minutes=${2:-1}
sets=("${@:3}")
[[ ${#sets[@]} -gt 0 ]] || sets=(uci-online-retail amazon14-beauty amazon18-videogames globo-news)
export OMP_NUM_THREADS=1
everyitem=(taskset -c 0 .venv/bin/everyitem)

run() { # data set, strategy
    local out=docs/results/codes/$1/$2.json model=$work/$1/$2
    [[ -e $out ]] && return
    mkdir -p "docs/results/codes/$1"
    "${everyitem[@]}" train "$data/$1" "$model" --threads 1 --minutes "$minutes" --codes "$2" --num-splits 32 --memory 0
    "${everyitem[@]}" evaluate "$model" "$data/$1" --max-users 20000 --time-users 0 --json >"$model/evaluation.json"
    .venv/bin/python - "$model" >"$out.part" <<'PY'
import json, pathlib, sys

model = pathlib.Path(sys.argv[1])
read = lambda name: json.loads((model / name).read_text())
evaluation, training = read("evaluation.json"), read("metrics.json")
kept = {name: evaluation[name] for name in ("ndcg@10", "recall@10", "users", "num_items")}
kept |= {name: training[name] for name in ("coding_seconds", "ties", "training_seconds", "updates")}
print(json.dumps(kept | {"settings": read("recommender.json")["settings"]}, indent=1))
PY
    mv "$out.part" "$out"
}

# set by set, so that an interrupted run has whole comparisons
for set in "${sets[@]}"; do
    for strategy in dense kmeans hybrid svd-rank svd bpr random; do run "$set" "$strategy"; done
done
