#!/usr/bin/env bash
# Trains RecTools' SASRec, BERT4Rec and eSASRec and RePlay's SASRec on our split and writes
# docs/results/<data set>/<peer>.json, beside what runs/real_data.sh writes.
#
#   EVERYITEM_DATA=<folder of log folders> runs/peers.sh PEERS [MINUTES] [DATA SET ...]
#
# PEERS is the folder of a virtual environment for them, made here if it is not there (their pins clash with ours). Every
# model gets the same MINUTES on one thread (default 3), as ours do; their full softmax needs the catalogue's logits for
# every position of a batch, so oss-edits is left out. What is there is not done again. Then: python runs/tabulate.py
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
data=${EVERYITEM_DATA:?set EVERYITEM_DATA to the folder that holds the log folders}
peers=${1:?name a folder for the environment}
minutes=${2:-3}
sets=("${@:3}")
[[ ${#sets[@]} -gt 0 ]] || sets=(amazon14-beauty amazon14-sports amazon18-videogames uci-online-retail globo-news)
export OMP_NUM_THREADS=1

if [[ ! -e $peers/bin/python ]]; then
    python3 -m venv "$peers"
    "$peers/bin/pip" install -q "rectools[torch]==0.19.0" replay-rec==0.22.0 lightning
fi
for set in "${sets[@]}"; do
    for model in rectools-sasrec rectools-bert4rec rectools-esasrec replay-sasrec; do
        out=docs/results/$set/$model.json
        [[ -e $out ]] ||
            .venv/bin/python benchmarks/peer_quality.py "$model" "$data/$set" "$out" --peers "$peers/bin/python" --minutes "$minutes"
    done
done
