"""What does a filter cost, and is the cost of a search foretold? Answers are checked before anything is timed.

    python benchmarks/filters.py --kind diffuse --items 1300000      or --model EXPORT

Filters let random items through, given as bits or compiled, and once the items of one place: those of a few codes of
the first split. The goal is the bounded scan without a filter. Times are the median of the queries' best of three,
one thread, K = 10; foretold: `predict_cost` against the same.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from catalogues import CACHE, LEARNT, catalogue
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from everyitem.bench.catalogues import KINDS, SAMPLES
from everyitem.index import PQIndex, reference
from everyitem.types import Floats

SHARES = (0.0, 0.0001, 0.001, 0.01, 0.015, 0.02, 0.05, 0.1, 0.5, 0.999)
K, ROUNDS = 10, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a folder of everyitem export, instead of a generated catalogue")
    parser.add_argument("--kind", choices=[*KINDS, *LEARNT], default="diffuse")
    parser.add_argument("--items", type=int, default=1_300_000)
    parser.add_argument("--queries", type=int, default=60)
    args = parser.parse_args()
    made = catalogue(args.model or args.kind, args.items, 8, 512, args.queries + SAMPLES, CACHE)
    index = PQIndex(made.codes_IM, made.codebooks_MBd, rotation_DD=made.rotation_DD)
    index.compact(made.queries_UD[:SAMPLES])
    queries_UD = np.array(made.queries_UD[SAMPLES : SAMPLES + args.queries])
    rng = np.random.default_rng(0)
    filters = {f"{share:.2%} at random": rng.random(index.num_items) < share for share in SHARES}
    filters["of one place"] = index.codes_IM[:, 0] < 13
    scan = best_us(partial(index.top_k, k=K, algorithm="bounded_scan", threads=1), queries_UD)
    table = Table("allowed", *("bits us", "x scan", "compiled us", "x scan", "compiling ms"), title=made.name)
    for name, allow in filters.items():
        table.add_row(name, *line(index, queries_UD, allow, float(np.median(scan))))
    console = Console(width=100)
    console.print(table, f"the bounded scan without a filter: {np.median(scan):.0f} us")
    console.print(foretold(index, queries_UD))


def line(index: PQIndex, queries_UD: Floats, allow: np.ndarray, scan_us: float) -> list[str]:
    """One filter, as bits and compiled."""
    bits = np.packbits(allow, bitorder="little")
    started = time.perf_counter()
    compiled = index.compile_filter(bits)
    seconds = time.perf_counter() - started
    cells = []
    for form in (bits, compiled):
        check(index, queries_UD[:3], allow, form)
        us = float(np.median(best_us(partial(index.top_k, k=K, allow=form, threads=1), queries_UD)))
        cells += [f"{us:.0f}", f"{us / scan_us:.2f}"]
    return [*cells, f"{seconds * 1e3:.1f}"]


def check(index: PQIndex, queries_UD: Floats, allow: np.ndarray, form: object) -> None:
    wanted = reference.top_k(reference.pq_scores(index.score_table(queries_UD), index.codes_IM), K, allow)
    found = index.top_k(queries_UD, K, allow=form, threads=1)  # type: ignore[arg-type]
    assert found.items.tobytes() == wanted.items.tobytes(), "ids differ from the reference"
    assert found.scores.tobytes() == wanted.scores.tobytes(), "score bits differ from the reference"


def foretold(index: PQIndex, queries_UD: Floats) -> str:
    cost = index.predict_cost(queries_UD, K)
    us = best_us(partial(index.top_k, k=K, threads=1), queries_UD)
    low, middle, high = np.quantile(cost.microseconds / us, (0.1, 0.5, 0.9))
    said = f"foretold / actual us: p10 {low:.2f}, median {middle:.2f}, p90 {high:.2f}"
    if len(np.unique(cost.items)) == 1:
        return f"{said}; every query looks at as many items"
    return f"{said}; rank correlation {spearmanr(cost.microseconds, us).statistic:.2f}"


def best_us(search: Callable[[Floats], object], queries_UD: Floats) -> np.ndarray:
    """Per query, the best of three rounds."""
    seconds = np.empty((ROUNDS, len(queries_UD)))
    for one_round in seconds:
        for row in range(len(queries_UD)):
            started = time.perf_counter()
            search(queries_UD[row, None])
            one_round[row] = time.perf_counter() - started
    best: np.ndarray = seconds.min(axis=0) * 1e6
    return best


if __name__ == "__main__":
    main()
