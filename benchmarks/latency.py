"""How long does a recommendation take? Item ids of a history in, item ids out, stage by stage, on one thread.

    python benchmarks/latency.py --record       2 million items, D = 512, two blocks, histories of 50 and 200 events

The catalogue is a learnt one (benchmarks/catalogues.py) whose items carry text ids; the encoder has the size of the
published ones and random weights, which cost what trained ones cost; the model remembers transitions as `everyitem
train` makes it do. Before anything is timed, answers are checked: sums over stages against `Recommender.recommend`,
and every click of a session against the whole history. Then the encoder still computes, but hands over one of the
learnt queries of the catalogue: its own favour nothing, and are what a flat scan is for (`--queries random`).
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl
import torch
from catalogues import CACHE, LEARNT, catalogue
from recording import record
from rich.console import Console
from rich.table import Table

from everyitem.bench.catalogues import SAMPLES
from everyitem.index import PQIndex
from everyitem.learn.run import BACKBONES
from everyitem.memory import NUM_FEATURES, Memory, count_transitions
from everyitem.model import PrecisionName
from everyitem.model.encode import Encoder
from everyitem.model.export import export_onnx
from everyitem.model.int8 import quantise_encoder
from everyitem.recommender import EVENTS, Recommender
from everyitem.session import Session
from everyitem.types import Floats, Histories

COLUMNS = (
    *("catalogue", "items", "dim", "blocks", "backbone", "precision", "length", "queries", "stage"),
    *("clock", "timed", "median_ms", "p95_ms", "p99_ms"),
)
K = 10
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}


def main() -> None:
    args = arguments()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # one core: searches take a thread per core
    made = catalogue(args.kind, args.items, 8, 512, SAMPLES, args.cache)
    index = PQIndex(made.codes_IM, made.codebooks_MBd)
    index.compact(made.queries_UD[:SAMPLES])
    histories = walks(index.num_items, args.users, max(args.lengths) + 1)
    console, rows = Console(width=120), []
    for backbone in args.backbones:
        with tempfile.TemporaryDirectory() as folder:
            encoders = exported(backbone, max(args.lengths), args.precisions, Path(folder))
            for precision, encoder in encoders.items():
                recommender = recommender_of(index, encoder, histories)
                for length in args.lengths:
                    recommender.encoder = encoder
                    asked = asked_of(recommender, histories, length)
                    check(recommender, asked)
                    if args.queries == "learnt":
                        recommender.encoder = Learnt(encoder, made.queries_UD[SAMPLES:])
                    found = measure(recommender, asked, length, args.seconds, CLOCKS[args.clock])
                    head = (made.name, index.num_items, index.dim, 2, backbone, precision, length, args.queries)
                    rows += [(*head, stage, args.clock, *times) for stage, times in found.items()]
                    console.print(table(found, f"{backbone}, {precision}, {length} events, {index.num_items:,} items"))
    if args.record:
        print(record(rows, "latency", COLUMNS))


def walks(num_items: int, num_users: int, length: int) -> Histories:
    """Histories that repeat and stay near, as positions."""
    rng = np.random.default_rng(7)
    steps = rng.integers(-6, 7, (num_users, length)) * (rng.random((num_users, length)) < 0.7)
    events = (rng.integers(0, num_items, (num_users, 1)) + np.cumsum(steps, axis=1)) % num_items
    return Histories.from_lists(events.tolist())


def exported(backbone: str, length: int, precisions: list[str], folder: Path) -> dict[str, Encoder]:
    """Encoders with random weights by precision; new blocks are the identity, so they are moved away from it."""
    torch.manual_seed(0)
    network = BACKBONES[backbone](512, blocks=2, length=length).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    path = folder / "encoder.onnx"
    export_onnx(network, path)
    quantise_encoder(path, folder / "int8.onnx")
    return {name: Encoder(folder / "int8.onnx" if name == "int8" else path, length, name) for name in precisions}


def recommender_of(index: PQIndex, encoder: Encoder, histories: Histories) -> Recommender:
    """With text ids, one attribute, and a memory with plain weights."""
    ids = pl.select(pl.format("item-{}", pl.int_range(index.num_items))).to_series()
    items = pl.DataFrame({"item_id": ids, EVENTS: np.ones(index.num_items, np.int64)})
    transitions = count_transitions(histories, index.num_items, 32)
    memory = Memory(transitions, np.full(NUM_FEATURES, 0.1, np.float32), np.zeros(2, np.float32), np.array(50))
    return Recommender(encoder, index, items, {}, memory)


class Learnt(Encoder):
    """Computes what `encoder` does, and answers with one of `queries_UD` that depends on what was computed."""

    def __init__(self, encoder: Encoder, queries_UD: Floats) -> None:
        self.__dict__.update(vars(encoder))
        self.queries_UD = queries_UD

    def extend(self, x_UTD: Floats, past_UPE: Floats | None = None) -> tuple[Floats, Floats]:
        """A learnt query per row, and the state of the encoder."""
        query_UD, state = super().extend(x_UTD, past_UPE)
        return self.queries_UD[np.abs(query_UD[:, 0] * 1e6).astype(np.int64) % len(self.queries_UD)], state


def asked_of(recommender: Recommender, histories: Histories, length: int) -> list[list[str]]:
    """The ids of the newest events, one more than `length`."""
    rows = [histories[u][-length - 1 :] for u in range(len(histories))]
    return [recommender.items["item_id"].gather(row).to_list() for row in rows]


def measure(
    recommender: Recommender, asked: list[list[str]], length: int, seconds: float, now: Callable[[], float]
) -> dict[str, tuple[int, float, float, float]]:
    """(calls, median, p95, p99) in ms of every stage, of the whole, and of one more click of a session."""
    clock, started = Clock(now), now()
    while now() - started < seconds:
        for ids in asked:
            whole = clock("recommend", recommender.recommend, [ids[1:]], K)
            if not stages(recommender, ids[1:], clock).equals(whole["item_id"]):
                raise AssertionError("the stages do not add up to what recommend does")
            session = Session(recommender, ids[-length:-1])
            clock("session: one more click", session.add, ids[-1:])
            clock("session: recommend", session.recommend, K)
    return clock.quantiles()


def stages(recommender: Recommender, ids: list[str], clock: "Clock") -> pl.Series:
    """What `Recommender.recommend` does, one stage after the other; the recommended ids."""
    positions = clock("ids to positions", recommender.positions, ids)
    rows = Histories(positions, np.zeros(1, np.int64), np.full(1, len(positions)))
    vectors_TD = clock("item vectors", recommender.index.vectors, positions[-recommender.encoder.length :])
    query_UD = clock("encoder", recommender.encoder, vectors_TD[None])
    top = clock("memory and search", recommender.best, query_UD, rows, K, exclude=positions[None], threads=1)
    return clock("answer as a table", recommender.table, pl.Series([0]), top)["item_id"]


class Clock:
    """Seconds of calls, by stage."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.seconds: dict[str, list[float]] = {}

    def __call__(self, stage: str, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """What the call returns."""
        started = self.now()
        found = call(*args, **options)
        self.seconds.setdefault(stage, []).append(self.now() - started)
        return found

    def quantiles(self) -> dict[str, tuple[int, float, float, float]]:
        """(calls, median, p95, p99) in ms."""
        return {
            stage: (len(seconds), *map(float, np.quantile(np.array(seconds) * 1e3, (0.5, 0.95, 0.99))))
            for stage, seconds in self.seconds.items()
        }


def check(recommender: Recommender, asked: list[list[str]]) -> None:
    """A session's answers are those of the whole history, for float32 also one by one in order."""
    same = []
    for ids in asked[:20]:
        session = Session(recommender, ids[1:-1])
        session.add(ids[-1:])
        whole = recommender.recommend([ids[1:]], K)["item_id"].to_list()
        same.append(session.recommend(K)["item_id"].is_in(whole).mean())
    needed = 0.999 if recommender.encoder.precision == "float32" else 0.9
    if np.mean(same) < needed:
        raise AssertionError(f"sessions share {np.mean(same):.3f} of the top {K} with the whole history")


def table(found: dict[str, tuple[int, float, float, float]], title: str) -> Table:
    shown = Table(title=title, caption="ms per recommendation, one thread", caption_justify="left")
    for column in ("stage", "timed", "median", "p95", "p99"):
        shown.add_column(column, justify="left" if column == "stage" else "right")
    for stage, (timed, *times) in found.items():
        shown.add_row(stage, f"{timed:,}", *(f"{ms:.3f}" for ms in times))
    return shown


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=LEARNT, default="tr13")
    parser.add_argument("--items", type=int, default=2_000_000)
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--lengths", type=int, nargs="+", default=[50, 200])
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=["sasrec"])
    parser.add_argument("--precisions", nargs="+", choices=get_args(PrecisionName), default=get_args(PrecisionName))
    parser.add_argument("--seconds", type=float, default=5.0, help="for every encoder and length")
    parser.add_argument("--queries", choices=("learnt", "random"), default="learnt", help="what is searched for")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="processor: where others want the same core")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where learnt catalogues are kept")
    parser.add_argument(
        "--record", action="store_true", help="append to benchmarks/record/<machine>/<date>-latency.tsv"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
