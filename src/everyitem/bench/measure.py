"""What is measured: every way to search, under one setting, taking turns so that all see the same machine."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from everyitem.bench.check import recall
from everyitem.bench.methods import Method
from everyitem.bench.timing import Evict, Seconds, Times, clocked, reading_seconds, summary
from everyitem.index import PQIndex
from everyitem.types import Floats

ROUNDS = 3


class Setting(NamedTuple):
    """How searches are called."""

    k: int = 10
    batch: int = 1
    threads: int = 1
    cold: bool = False
    """Other memory is read before every call, see `Evict`."""

    def __str__(self) -> str:
        return f"K = {self.k}, batch {self.batch}, {self.threads} thread{'s' * (self.threads > 1)}, " + (
            "cold" if self.cold else "steady"
        )


class Measurement(NamedTuple):
    """One line of a table."""

    setting: Setting
    algorithm: str
    times: Times
    scored: float | None
    """Share of the items whose full score was computed, mean over queries."""
    recall: float | None
    """Of an approximate method, against the exact answer; None: exact, and checked."""
    bytes_per_item: float
    build_us_per_item: float
    bandwidth: float | None
    """The time to read the codes once, as fast as this machine reads, of the time that a query took."""


def measure(
    index: PQIndex,
    methods: Sequence[Method],
    queries_UD: Floats,
    setting: Setting,
    *,
    seconds: float = 3.0,
    report: Callable[[str], None] = lambda _: None,
) -> list[Measurement]:
    """Time every method; answers should have passed `check`.

    Args:
        index: the catalogue, for what is exact.
        methods: in the order of the result.
        queries_UD: each is asked once per round, as far as `seconds` allow.
        setting: of all calls.
        seconds: for a method, all rounds together; a slow one gets three calls.
        report: told the name of what is being timed.
    """
    evict = Evict() if setting.cold else None
    clocks: dict[str, list[Seconds]] = {method.name: [] for method in methods}
    for _ in range(ROUNDS):
        for method in methods:
            report(method.name)
            calls = _calls(method, queries_UD, setting)
            next(iter(calls))()  # untimed: makes what is made once, and warms what steady means
            clocks[method.name].append(clocked(calls, budget=seconds / ROUNDS, before=evict))
    approximate = any(method.promise == "approximate" for method in methods)
    exact = index.top_k(queries_UD, setting.k, algorithm="pqtopk", threads=setting.threads) if approximate else None
    floor = reading_seconds(index.num_items * index.num_splits, before=evict)
    lines = []
    for method in methods:
        found = method.search(queries_UD, setting.k, setting.threads) if method.promise != "exact" else None
        scored = None if found is None or found.scored is None else float(found.scored.mean()) / index.num_items
        hits = recall(index, found, queries_UD, exact) if found and exact and method.promise == "approximate" else None
        times = summary(np.concatenate(clocks[method.name]), setting.batch)
        lines.append(
            Measurement(
                setting,
                method.name,
                times,
                1.0 if method.promise == "exact" else scored,
                hits,
                method.num_bytes / index.num_items,
                method.build_seconds * 1e6 / index.num_items,
                floor * 1e6 / times.median_us if method.name == "bounded_scan" and setting.threads == 1 else None,
            )
        )
    return lines


def _calls(method: Method, queries_UD: Floats, setting: Setting) -> list[Callable[[], object]]:
    """One call per batch; the last takes up queries from the start until it is full."""
    starts: Iterable[int] = range(0, len(queries_UD), setting.batch)
    batches = [np.take(queries_UD, range(start, start + setting.batch), axis=0, mode="wrap") for start in starts]
    return [partial(method.search, batch, setting.k, setting.threads) for batch in batches]
