# What the scripts of this folder share; to be sourced. Trains, evaluates, and keeps what both say in one file.
export OMP_NUM_THREADS=1

measure() { # OUT.json, model folder, log folder, minutes, "options of `everyitem evaluate`", options of `everyitem train`
    local out=$1 model=$2 log=$3 minutes=$4 asking=$5
    shift 5
    [[ -e $out ]] && return
    mkdir -p "$(dirname "$out")"
    [[ -e $model/README.md ]] || .venv/bin/everyitem train "$log" "$model" --threads 1 --minutes "$minutes" "$@"
    # shellcheck disable=SC2086
    .venv/bin/everyitem evaluate "$model" "$log" --max-users 20000 --json $asking >"$model/evaluation.json"
    .venv/bin/python - "$model" >"$out.part" <<'PY'
import json, pathlib, sys

model = pathlib.Path(sys.argv[1])
read = lambda name: json.loads((model / name).read_text())
found = read("evaluation.json") | {"training": read("metrics.json"), "settings": read("recommender.json")["settings"]}
print(json.dumps(found, indent=1))
PY
    mv "$out.part" "$out"
}

exported() { # export folder, model folder, log folder, queries
    [[ -e $1/queries.npy ]] || .venv/bin/everyitem export "$2" "$1" --log "$3" --queries "$4"
}

searched() { # OUT.json, model folder, log folder, options of `everyitem train`: evaluated, and searched by 1,000 queries
    local out=$1 model=$2 log=$3
    [[ -e $out ]] && return
    measure "$model.json" "$model" "$log" 600 "--time-users 0" "${@:4}"
    exported "$model-export" "$model" "$log" 1000
    .venv/bin/everyitem bench "$model-export" --num-queries 1000 --json >"$model-bench.json"
    mkdir -p "$(dirname "$out")"
    .venv/bin/python - "$model.json" "$model-bench.json" >"$out.part" <<'PY'
import json, pathlib, sys

evaluation, search = (json.loads(pathlib.Path(path).read_text()) for path in sys.argv[1:])
print(json.dumps(evaluation | {"search": search}, indent=1))
PY
    mv "$out.part" "$out"
}
