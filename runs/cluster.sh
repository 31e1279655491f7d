#!/usr/bin/env bash
# Batch jobs and shards, measured: `runs/cluster.sh WORK` trains a model on amazon14-beauty in WORK for a minute, then
# writes benchmarks/record/<machine>/<date>-{offline,cluster}.tsv. Needs EVERYITEM_DATA and `ray[data]`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
log=$EVERYITEM_DATA/amazon14-beauty
[[ -d $1/beauty ]] || .venv/bin/everyitem train "$log" "$1/beauty" --minutes 1 --threads 1
.venv/bin/python benchmarks/offline.py "$1/beauty" "$log" --record
.venv/bin/python benchmarks/cluster.py --record
