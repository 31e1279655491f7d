"""RecJPQPrune's experiments (arXiv:2505.00560) on a trained model, our searches beside it.

    python benchmarks/recjpqprune.py EXPORT --out docs/results/recjpqprune/NAME.json

EXPORT is what `everyitem export MODEL EXPORT --log LOG --queries 100000` wrote. Median and p95 per method (the paper's
Table 2), sub-items per step, K, share of the items scored, who the slow users are: one thread, one query at a time, on
an idle machine. And, over all queries of the export, on all cores, how often an algorithm answers otherwise than
PQTopK, ids or score bits. `--parts times` or `--parts safety` does one of both and leaves the rest of the file.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ours import ours
from peers import DENSE, EXACT, Vectors, offered
from rich.console import Console

from everyitem.bench import show
from everyitem.bench.catalogues import SAMPLES, read_export
from everyitem.bench.check import check, num_checked
from everyitem.bench.difficulty import difficulty
from everyitem.bench.measure import Setting, measure
from everyitem.bench.methods import Found, Method
from everyitem.bench.timing import clocked
from everyitem.index import PQIndex
from everyitem.index.pq import ALGORITHMS
from everyitem.types import Floats

STEPS = (1, 2, 4, 8, 16, 32)
KS = (1, 10, 100, 1000)
PRUNING = ("recjpqprune", "block_prune", "bounded_scan")
ROUNDS, SLOWEST = 3, 0.05
RANKS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 255)
CHUNK = 2000
PARTS = ("times", "safety")


def main() -> None:
    args = arguments()
    made = read_export(args.export)
    index = PQIndex(made.codes_IM, made.codebooks_MBd, rotation_DD=made.rotation_DD)
    samples = min(SAMPLES, len(made.queries_UD) // 2)
    ways = ours(index, np.ascontiguousarray(made.queries_UD[:samples]))
    result: dict[str, Any] = json.loads(args.out.read_text()) if args.out.exists() else {}
    result |= {"catalogue": args.out.stem, "items": index.num_items, "num_splits": index.num_splits, "dim": index.dim}
    if "times" in args.parts:
        result |= times(args, index, ways, np.array(made.queries_UD[samples:][: args.queries]))
    if "safety" in args.parts:
        result["safety"] = safety(index, made.queries_UD, args.k)
        print(f"safety: {result['safety']}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")


def times(args: argparse.Namespace, index: PQIndex, ways: list[Method], queries_UD: Floats) -> dict[str, Any]:
    """The paper's tables, as entries of the result."""
    console = Console(width=120)
    pruning = [way for way in ways if way.name in PRUNING]
    peers = list(offered([*EXACT, *DENSE], index, Vectors(index)))
    stepping = [Method(str(step), partial(_prune, index, step), "bits", 0.0, 0.0) for step in STEPS]
    result: dict[str, Any] = {
        "queries": len(queries_UD),
        "difficulty": difficulty(index, queries_UD)._asdict(),
    }

    def timed(title: str, methods: list[Method], setting: Setting) -> list[dict[str, Any]]:
        check(index, methods, queries_UD[: num_checked(index)], setting.k)
        with console.status(title):
            lines = measure(index, methods, queries_UD, setting, seconds=args.seconds)
        for table in show.tables(lines, f"{args.out.stem}: {title}"):
            console.print(table)
        return [show.record(line) for line in lines]

    result["methods"] = timed("methods", [*ways, *peers], Setting())
    result["steps"] = timed("sub-items per step of recjpqprune", stepping, Setting())
    for line, step in zip(result["steps"], STEPS, strict=True):
        line["iterations"] = float(index.prune_steps(queries_UD, 10, batch_size=step).mean())
    result["ks"] = [line for k in KS for line in timed(f"K = {k}", pruning, Setting(k))]
    result["users"] = {way.name: users(index, way, queries_UD) for way in pruning}
    for name, found in result["users"].items():
        console.print(
            f"{name}, slowest {SLOWEST:.0%} / others: "
            + ", ".join(_both(found, key) for key in found["others"] if key != "curve")
        )
    return result


def users(index: PQIndex, way: Method, queries_UD: Floats) -> dict[str, Any]:
    """Who is slow: the slowest 5 % of the queries against the others, by each query's median time.

    `curve`: how fast sub-items' scores fall from the best, (10, 50, 90) % quantiles over users at RANKS, 1 for the
    best of every split and 0 for the mean. `gap`: what an item may lose and still enter, in the same unit.
    """
    calls: list[Callable[[], Any]] = [partial(way.search, query[None], 10, 1) for query in queries_UD]
    us_U = np.median([clocked(calls, budget=np.inf) for _ in range(ROUNDS)], axis=0) * 1e6
    found = way.search(queries_UD, 10, 1)
    scored_U = np.zeros(len(us_U)) if found.scored is None else found.scored / index.num_items
    table_UMB = index.score_table(queries_UD).astype(np.float64)
    mean_U = table_UMB.mean(axis=2).sum(axis=1)
    range_U = table_UMB.max(axis=2).sum(axis=1) - mean_U
    falling_UB = (-np.sort(-table_UMB, axis=2).sum(axis=1) - mean_U[:, None]) / range_U[:, None]
    gap_U = 1 - (found.scores[:, -1] - mean_U) / range_U
    slow_U = us_U >= np.quantile(us_U, 1 - SLOWEST)
    ranks = [rank for rank in RANKS if rank < falling_UB.shape[1]]

    def group(chosen_U: np.ndarray) -> dict[str, Any]:
        return {
            "users": int(chosen_U.sum()),
            "median_us": float(np.median(us_U[chosen_U])),
            "scored": float(scored_U[chosen_U].mean()),
            "gap": float(np.median(gap_U[chosen_U])),
            "curve": np.quantile(falling_UB[chosen_U][:, ranks], (0.1, 0.5, 0.9), axis=0).round(4).tolist(),
        }

    return {
        "ranks": ranks,
        "slowest": group(slow_U),
        "others": group(~slow_U),
        "quantiles_us": np.quantile(us_U, np.linspace(0, 1, 101)).round(2).tolist(),
        "time_and_gap": float(np.corrcoef(_ranked(us_U), _ranked(gap_U))[0, 1]),
    }


def safety(index: PQIndex, queries_UD: Floats, k: int) -> dict[str, Any]:
    """All queries are asked: how many get another id or score bit than PQTopK gives, by algorithm."""
    others = [name for name in (*ALGORITHMS, None) if name != "pqtopk"]
    wrong = {name or "planner": 0 for name in others}
    for start in range(0, len(queries_UD), CHUNK):
        chunk = np.ascontiguousarray(queries_UD[start : start + CHUNK])
        wanted = index.top_k(chunk, k, algorithm="pqtopk")
        for name in others:
            found = index.top_k(chunk, k, algorithm=name)
            differs = (found.items != wanted.items) | (found.scores != wanted.scores)
            wrong[name or "planner"] += int(differs.any(axis=1).sum())
    return {"queries": len(queries_UD), "k": k, "mismatches": wrong}


def _prune(index: PQIndex, step: int, queries_UD: Floats, k: int, threads: int) -> Found:
    found = index.top_k(queries_UD, k, algorithm="recjpqprune", batch_size=step, threads=threads)
    return Found(found.items, found.scores, found.scored)


def _ranked(values_U: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(values_U, kind="stable"), kind="stable")


def _both(found: dict[str, Any], key: str) -> str:
    slow, others = found["slowest"][key], found["others"][key]
    return f"{key} {slow:.3g} / {others:.3g}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("export", type=Path, help="a folder of everyitem export, with queries")
    parser.add_argument("--out", type=Path, required=True, help="the .json file to write; its name is the model's")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--queries", type=int, default=1000, help="timed at most; all are checked")
    parser.add_argument("--k", type=int, default=10, help="of the check over all queries")
    parser.add_argument("--seconds", type=float, default=6.0, help="for every method and setting")
    return parser.parse_args()


if __name__ == "__main__":
    main()
