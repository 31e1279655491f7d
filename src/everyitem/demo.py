"""The main job from end to end on generated data: what `everyitem demo` shows. Downloads nothing."""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from everyitem.data.interactions import read_log
from everyitem.data.synthetic import write_synthetic_log
from everyitem.evaluate import report
from everyitem.evaluate.heldout import evaluate_models
from everyitem.index import reference
from everyitem.index.dense import DenseIndex
from everyitem.index.pq import PQIndex
from everyitem.learn.fit import fit
from everyitem.recommender import Recommender, load

TRAINING = {"minutes": 0.4, "dim": 128, "dropout": 0.1, "num_splits": 16}
CODED, DENSE = "SASRec, 16-byte codes", "SASRec, dense"
MAX_TEST_USERS = 3000


def run(folder: Path | None, *, num_items: int, console: Console) -> None:
    """Run every step and print what it shows.

    Args:
        folder: keeps the log, the models and the picture; None: a temporary folder, which is left there.
        num_items: size of the catalogue in the speed section.
        console: where to print.
    """
    started = time.perf_counter()
    folder = Path(tempfile.mkdtemp(prefix="everyitem-demo-")) if folder is None else folder
    log_folder, model, dense = folder / "log", folder / "model", folder / "model-dense"
    _section(console, "1  A log", "generated: Zipf popularity, clustered taste, sessions, titles and attributes")
    write_synthetic_log(log_folder)
    log = read_log(log_folder)
    console.print(
        f"{log.num_events:,} events of {log.num_users:,} users on {log.num_items:,} items in {log_folder}", markup=False
    )

    _section(console, "2  Train", "SASRec twice, for the same time: items as 16-byte codes, and a vector per item")
    for name, path in (("pq", model), ("dense", dense)):
        fit(log, path, items=name, show=console.is_terminal, **TRAINING)  # type: ignore[arg-type]
    _sizes(console, {CODED: model, DENSE: dense})

    _section(console, "3  Evaluate", "the last event of every user, against the whole catalogue: no sampled negatives")
    results = evaluate_models([model, dense], log_folder, baselines=True, max_users=MAX_TEST_USERS, time_users=200)
    names = {str(model): CODED, str(dense): DENSE}
    plain = {names.get(name, name): result.to_json() for name, result in results.items()}
    rows = report.rows_of(plain, ("ndcg@10", "recall@10"))
    console.print(report.grid_table(rows, title=f"leave-one-out, {min(MAX_TEST_USERS, log.num_users):,} users"))
    picture = folder / "evaluation.png"
    report.write_bar_chart(rows, picture, title="Next-item quality on the generated log", highlight=names[str(model)])
    console.print(f"picture: {picture}", markup=False)

    recommender = load(model)
    history = _recommend(console, recommender, log.items["item_id"].gather(log.histories[0]).to_list())
    _add_live(console, recommender, history)
    _speed(console, num_items)
    _section(console, "8  Yours now", f"all of this took {time.perf_counter() - started:.0f} s")
    console.print(
        f"  everyitem recommend {model} --history {','.join(history[-2:])} --where 'price < 50 and in_stock'\n"
        f"  everyitem recommend {model} --users {log_folder} --out recommendations.parquet\n"
        f"  everyitem train your-events.parquet your-model    # columns user_id, item_id, datetime",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )


def _section(console: Console, title: str, explanation: str) -> None:
    console.print(f"\n[bold cyan]{title}[/]  [dim]{explanation}[/]", highlight=False)


def _sizes(console: Console, models: dict[str, Path]) -> None:
    for name, path in models.items():
        size = sum(file.stat().st_size for file in (path / "index").rglob("*.npy"))
        console.print(f"  {name}: index {size / 1e6:.1f} MB")


def _recommend(console: Console, recommender: Recommender, history: list[str]) -> list[str]:
    history = history[-8:]
    where = "price < 50 and in_stock"
    _section(console, "4  Recommend", f"exact top 5 where {where}, without what the user has seen")
    titles = recommender.items.filter(pl.col("item_id").is_in(history[-3:]))["title"].to_list()
    console.print(f"  history ends with: {', '.join(titles)}")
    frame = recommender.recommend([history], k=5, where=where)
    shown = frame.join(recommender.items, on="item_id", how="left", maintain_order="left")
    table = Table("rank", "item", "title", "category", "price", "score")
    for row in shown.iter_rows(named=True):
        table.add_row(
            str(row["rank"]),
            row["item_id"],
            row["title"],
            row["category"],
            f"{row['price']:.2f}",
            f"{row['score']:.2f}",
        )
    console.print(table)
    _section(console, "5  Explain", "a score is a sum over sub-items and memory (the last one): its shares explain it")
    explanation = recommender.explain(history, frame["item_id"][0])
    shares = " + ".join(f"{score:.2f}" for score in explanation.splits["score"])
    nearest = explanation.history.join(recommender.items, on="item_id", how="left", maintain_order="left").row(
        0, named=True
    )
    console.print(
        f"  {explanation.score:.2f} = {shares}\n  nearest past item: {nearest['title']} ({nearest['similarity']:.2f})"
    )
    return history


def _add_live(console: Console, recommender: Recommender, history: list[str]) -> None:
    _section(console, "6  Add an item", "no training: placed beside items it is like, found by the very next query")
    best = recommender.recommend([history], k=1)["item_id"][0]
    like = recommender.items.filter(pl.col("item_id") == best)
    new = like.drop("training_events").with_columns(
        pl.lit("item-new").alias("item_id"), pl.lit("Brand new").alias("title")
    )
    started = time.perf_counter()
    recommender.add_items(new, like=[[best]])
    milliseconds = (time.perf_counter() - started) * 1e3
    everything = recommender.recommend([history], k=len(recommender.items))
    (rank,) = everything.filter(pl.col("item_id") == "item-new")["rank"]
    console.print(f"  item-new, like {best}, added in {milliseconds:.1f} ms; now at rank {rank} for this user")


def _speed(console: Console, num_items: int) -> None:
    dim, num_splits = 512, 8
    _section(
        console,
        "7  Speed",
        f"exact top 10 of {num_items:,} items, one thread; random codes: nothing to prune; D = {dim}",
    )
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (num_items, num_splits), dtype=np.uint8)
    codebooks = rng.standard_normal((num_splits, 256, dim // num_splits), dtype=np.float32)
    queries = rng.standard_normal((8, dim), dtype=np.float32)
    index = PQIndex(codes, codebooks)
    tables = index.score_table(queries)
    part = num_items // 10
    dense = DenseIndex(rng.standard_normal((part, dim), dtype=np.float32))
    expected = reference.top_k(reference.pq_scores(tables[:1], codes), 10)
    found = index.top_k(queries[:1], 10, threads=1)
    if not (np.array_equal(found.items, expected.items) and np.array_equal(found.scores, expected.scores)):
        raise RuntimeError(
            "the C++ core and its NumPy twin disagree; please report this with `everyitem doctor --json`"
        )
    timed: list[tuple[str, float]] = [
        (
            "PQTopK, NumPy twin",
            _milliseconds(lambda q: reference.top_k(reference.pq_scores(tables[:1], codes), 10), queries[:2]),
        ),
        (
            "dense float32, a tenth of the items x 10",
            10 * _milliseconds(lambda q: dense.top_k(q, 10, threads=1), queries),
        ),
        *(
            (f"{name}, C++", _milliseconds(partial(index.top_k, k=10, algorithm=name, threads=1), queries))
            for name in ("pqtopk", "recjpqprune", "bounded_scan", "block_prune")
        ),
    ]
    table = Table(
        "algorithm", "ms per query", "times faster than the twin", caption="ids and score bits checked against the twin"
    )
    for name, value in timed:
        table.add_row(name, f"{value:.2f}", f"{timed[0][1] / value:.1f}")
    console.print(table)


def _milliseconds(search: Callable[[Any], Any], queries: Any) -> float:
    """Median over queries, the first call untimed."""
    search(queries[:1])
    times = []
    for query in queries:
        started = time.perf_counter()
        search(query[None])
        times.append(time.perf_counter() - started)
    return float(np.median(times) * 1e3)
