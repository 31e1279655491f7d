#!/usr/bin/env bash
# PruneRec (arXiv:2507.07064) beside other ways to prune, on a language model that recommends by title; writes
# docs/results/prunerec/<data set>/<name>.json.
#
#   EVERYITEM_DATA=<folder of log folders> runs/prunerec.sh WORK [DATA SET] [NAME ...]
#
# Trains a Qwen2-shaped teacher from nothing for TEACHER_MINUTES (15), prunes it to SIZES by every method at equal size,
# restores each stage for RESTORE_MINUTES (2), and evaluates on USERS (2,000) test users, on one thread of core 0. The
# teacher is asked once about the histories of RESTORED_USERS (25,000), and what it said serves all runs.
# TEACHER holds options of runs/prunerec_teacher.py. NAMEs choose among the runs below. WORK keeps the models; what is
# already in docs/results/prunerec is not done again, and an interrupted run goes on. Then: python runs/tabulate.py
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
data=${EVERYITEM_DATA:?set EVERYITEM_DATA to the folder that holds the log folders}
work=${1:?name a folder for the models}
set=${2:-amazon18-videogames}
names=("${@:3}")
[[ ${#names[@]} -gt 0 ]] || names=(
    prunerec random magnitude wanda taylor shortgpt paper
    at-once restored-last no-teacher reverse js skewed-forward
    alpha-0 alpha-.3 alpha-.9 calibration-16 calibration-1024
    prunerec-1 prunerec-2 random-1 random-2
)
read -ra teacher <<<"${TEACHER:---hidden 96 --layers 6 --heads 8 --key-values 4 --neurons 288 --vocabulary 2048}"
read -ra sizes <<<"${SIZES:---keep-heads 4 --keep-hidden 48 --keep-mlp 48 --drop-layers 4}"
minutes=${RESTORE_MINUTES:-2}
users=${USERS:-2000} restored=${RESTORED_USERS:-25000}
out=docs/results/prunerec/$set
export OMP_NUM_THREADS=1
python=(taskset -c 0 .venv/bin/python -P) # -P: runs/tabulate.py must not stand for the package of that name
everyitem=(taskset -c 0 .venv/bin/everyitem)
mkdir -p "$out" "$work"

record() { # name, model: its evaluation, beside what pruning said
    "${everyitem[@]}" evaluate "$2" "$data/$set" --max-users "$users" --time-users 20 --json "${@:3}" >"$2/evaluation.json"
    "${python[@]}" runs/prunerec_record.py "$2" >"$out/$1.json.part"
    mv "$out/$1.json.part" "$out/$1.json"
}

prune() { # name, options
    local model=$work/$set/$1
    [[ -e $out/$1.json ]] && return
    case $1 in
        calibration-* | prunerec-* | random-*) ;; # learn from other users
        *) mkdir -p "$work/$set/answers" "$model/stages" && ln -sfn "$work/$set/answers" "$model/stages/answers" ;;
    esac
    "${everyitem[@]}" prune "$work/$set/teacher" "$model" --log "$data/$set" "${sizes[@]}" --users 0 --length 192 \
        --title-tokens 20 --batch-tokens 3072 --histories "$restored" --answers 16 --epochs 100 --minutes "$minutes" \
        --learning-rate 4e-3 "${@:2}"
    record "$1" "$model"
}

[[ -e $work/$set/teacher/training.json ]] ||
    "${python[@]}" runs/prunerec_teacher.py "$data/$set" "$work/$set/teacher" --minutes "${TEACHER_MINUTES:-15}" "${teacher[@]}"
[[ -e $out/teacher.json ]] || record teacher "$work/$set/teacher" --baselines
for name in "${names[@]}"; do
    case $name in
        prunerec) prune "$name" ;;
        random | magnitude | wanda | taylor | shortgpt) prune "$name" --method "$name" ;;
        paper) prune "$name" --paper ;;
        at-once) prune "$name" --at-once --minutes "$(awk "BEGIN { print 3 * $minutes }")" ;; # one stage, as long as three
        restored-last) prune "$name" --restore-last-only ;;
        no-teacher) prune "$name" --truth 1 ;;
        reverse | js | skewed-forward) prune "$name" --divergence "$name" ;;
        alpha-*) prune "$name" --alpha "${name#alpha-}" ;;
        calibration-*) prune "$name" --calibration "${name#calibration-}" ;;
        prunerec-* | random-*) prune "$name" --method "${name%-*}" --seed "${name##*-}" ;;
        *) echo "no run is called $name" >&2 && exit 2 ;;
    esac
done
