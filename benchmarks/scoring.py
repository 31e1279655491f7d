"""How fast are the best items found? Answers are checked before anything is timed; ratios come from the same run.

    python benchmarks/scoring.py --items 1300000 --num-splits 8 --dim 512 --k 10

One query at a time on one thread, random codes and Gaussian codebooks: no structure that pruning could use.
"""

import argparse
import datetime
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from everyitem.index import DenseIndex, PQIndex, reference
from everyitem.types import Floats

Search = Callable[[Floats], tuple[Any, Any]]  # queries -> (ids, scores)
RECORD = Path(__file__).parent / "record"
COLUMNS = ["algorithm", "items", "num_splits", "dim", "k", "median_ms", "p95_ms", "ns_per_item", "times_pqtopk"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--num-splits", type=int, default=8)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--queries", type=int, default=30, help="timed once each")
    parser.add_argument("--dense", action=argparse.BooleanOptionalAction, default=True, help="needs 4 D bytes per item")
    parser.add_argument("--record", action="store_true", help="append a TSV to benchmarks/record/")
    args = parser.parse_args()

    rng = np.random.default_rng(0)
    codes_IM = rng.integers(0, 256, (args.items, args.num_splits), dtype=np.uint8)
    codebooks_MBd = rng.standard_normal((args.num_splits, 256, args.dim // args.num_splits), dtype=np.float32)
    queries_UD = rng.standard_normal((args.queries, codebooks_MBd.shape[0] * codebooks_MBd.shape[2]), dtype=np.float32)
    pq = PQIndex(codes_IM, codebooks_MBd)
    searches = pq_searches(pq, args.k) | faiss_search(pq, args.k)
    if args.dense:
        searches |= dense_searches(pq, args.k)
    check(searches, pq, queries_UD[:3], args.k)

    rows, base = [], 0.0
    for name, search in searches.items():
        seconds = timed(search, queries_UD)
        median, p95 = np.median(seconds), np.quantile(seconds, 0.95)
        base = base or median
        shape = [args.items, args.num_splits, args.dim, args.k]
        times = [f"{median * 1e3:.3f}", f"{p95 * 1e3:.3f}", f"{median / args.items * 1e9:.2f}", f"{median / base:.1f}"]
        rows.append([name, *map(str, shape), *times])
    show(rows)
    if args.record:
        print(record(rows))


def check(searches: dict[str, Search], pq: PQIndex, queries_UD: Floats, k: int) -> None:
    """Stop unless ids and score bits are those of the NumPy twin, and every peer's scores within rounding of them."""
    scores = reference.pq_scores(pq.score_table(queries_UD), pq.codes_IM)
    wanted, found = reference.top_k(scores, k), pq.top_k(queries_UD, k)
    assert found.items.tobytes() == wanted.items.tobytes(), "ids differ from the reference"
    assert found.scores.tobytes() == wanted.scores.tobytes(), "score bits differ from the reference"
    for name, search in searches.items():
        ids, values = search(queries_UD)
        assert np.allclose(values, wanted.scores, rtol=1e-3, atol=1e-3), f"{name}: scores differ"
        assert (ids == wanted.items).mean() > 0.99, f"{name}: ids differ"


def pq_searches(pq: PQIndex, k: int) -> dict[str, Search]:
    codes_IM = pq.codes_IM
    return {
        "pqtopk, C++": lambda q: pq.top_k(q, k, algorithm="pqtopk", threads=1)[:2],
        "pqtopk, NumPy": lambda q: reference.top_k(reference.pq_scores(pq.score_table(q), codes_IM), k)[:2],
        "recjpq, NumPy": lambda q: reference.top_k(reference.recjpq_scoring(pq.score_table(q), codes_IM), k)[:2],
    }


def dense_searches(pq: PQIndex, k: int) -> dict[str, Search]:
    vectors_ID = pq.vectors(np.arange(pq.num_items))
    dense = DenseIndex(vectors_ID)
    return {
        "dense, C++": lambda q: dense.top_k(q, k, threads=1)[:2],
        "dense, NumPy matmul": lambda q: reference.top_k(q @ vectors_ID.T, k)[:2],
    }


def faiss_search(pq: PQIndex, k: int) -> dict[str, Search]:
    """The same codes and codebooks inside faiss's IndexPQ, if faiss is installed."""
    try:
        import faiss
    except ImportError:
        return {}
    faiss.omp_set_num_threads(1)
    index = faiss.IndexPQ(pq.dim, pq.num_splits, 8, faiss.METRIC_INNER_PRODUCT)
    faiss.copy_array_to_vector(pq.codebooks_MBd.ravel(), index.pq.centroids)
    index.is_trained = True
    index.add_sa_codes(np.ascontiguousarray(pq.codes_IM))
    return {"faiss IndexPQ": lambda q: index.search(q, k)[::-1]}


def timed(search: Search, queries_UD: Floats) -> list[float]:
    """Seconds per query, after one that is not timed."""
    search(queries_UD[:1])
    seconds = []
    for row in range(len(queries_UD)):
        start = time.perf_counter()
        search(queries_UD[row, None])
        seconds.append(time.perf_counter() - start)
    return seconds


def show(rows: list[list[str]]) -> None:
    shape = ", ".join(f"{name} {value}" for name, value in zip(COLUMNS[1:5], rows[0][1:5], strict=True))
    table = Table(title=f"one query, one thread: {shape}")
    for name in COLUMNS[:1] + COLUMNS[5:]:
        table.add_column(name, justify="left" if name == "algorithm" else "right")
    for row in rows:
        table.add_row(row[0], *row[5:])
    Console().print(table)


def record(rows: list[list[str]]) -> Path:
    """Append to this machine's file of today."""
    path = RECORD / f"{platform.machine()}-{platform.system().lower()}" / f"{datetime.date.today()}-scoring.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a") as file:
        file.writelines("\t".join(row) + "\n" for row in ([COLUMNS] if new else []) + rows)
    return path


if __name__ == "__main__":
    main()
