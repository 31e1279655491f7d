"""Baselines against naive twins that score every item from the definition."""

import itertools
import os
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everyitem.evaluate import measures
from everyitem.evaluate.baselines import ItemKNN, Markov, Popularity, RepeatLast
from everyitem.types import Histories, Ranker, TopK

NUM_ITEMS = 9
WINDOW, NUM_NEIGHBOURS, NUM_RECENT = 3, 4, 2

Rows = list[list[int]]
Evidence = Callable[[Rows, list[int]], dict[int, float]]


def popular(train: Rows, history: list[int]) -> dict[int, float]:
    return {}


def newest(train: Rows, history: list[int]) -> dict[int, float]:
    return {item: place + 1 for place, item in enumerate(history)}


def transitions(train: Rows, history: list[int]) -> dict[int, float]:
    follows = Counter(pair for row in train for pair in itertools.pairwise(row))
    events = Counter(item for row in train for item in row)
    return {j: n - 1 / (1 + events[j]) for (i, j), n in follows.items() if [i] == history[-1:]}


def together(train: Rows, history: list[int]) -> dict[int, float]:
    baskets = [set(row[::-1][start : start + WINDOW]) for row in train for start in range(0, len(row), WINDOW)]
    holds = Counter(item for basket in baskets for item in basket)
    scores: dict[int, float] = {}
    for age, item in enumerate(history[::-1][:NUM_RECENT]):
        both = Counter(other for basket in baskets if item in basket for other in basket - {item})
        cosine = {other: float(np.float32(n / np.sqrt(holds[item] * holds[other]))) for other, n in both.items()}
        for other in sorted(cosine, key=lambda other: (-cosine[other], other))[:NUM_NEIGHBOURS]:
            scores[other] = scores.get(other, 0) + cosine[other] / (1 + age)
    return scores


def naive(evidence: Evidence, train: Rows, history: list[int], k: int, exclude_seen: bool) -> list[tuple[int, float]]:
    events = Counter(item for row in train for item in row)
    scores = {item: -1 / (1 + events[item]) for item in range(NUM_ITEMS)} | evidence(train, history)
    eligible = set(scores) - (set(history) if exclude_seen else set())
    ranked = sorted((-np.float32(scores[item]), item) for item in eligible)[:k]
    return [(item, float(-score)) for score, item in ranked] + [(-1, -np.inf)] * (k - len(ranked))


def knn(train: Histories, num_items: int) -> ItemKNN:
    return ItemKNN(train, num_items, window=WINDOW, num_neighbours=NUM_NEIGHBOURS, num_recent=NUM_RECENT)


TWINS = [(Popularity, popular), (RepeatLast, newest), (Markov, transitions), (knn, together)]

rows = st.lists(st.lists(st.integers(0, NUM_ITEMS - 2), max_size=8), min_size=1, max_size=10)
asked = st.lists(st.lists(st.integers(0, NUM_ITEMS - 1), max_size=8), min_size=1, max_size=4)


@pytest.mark.parametrize(("build", "evidence"), TWINS, ids=["popularity", "repeat", "markov", "knn"])
@settings(max_examples=150, deadline=None)
@given(train=rows, histories=asked, k=st.integers(1, NUM_ITEMS + 2), exclude_seen=st.booleans())
def test_a_baseline_equals_its_naive_twin(
    build: Callable[[Histories, int], Ranker],
    evidence: Evidence,
    train: Rows,
    histories: Rows,
    k: int,
    exclude_seen: bool,
) -> None:
    ranker = build(Histories.from_lists(train), NUM_ITEMS)
    top = ranker.rank(Histories.from_lists(histories), k, exclude_seen=exclude_seen)
    expected = [naive(evidence, train, history, k, exclude_seen) for history in histories]
    assert [
        list(zip(i.tolist(), s.tolist(), strict=True)) for i, s in zip(top.items, top.scores, strict=True)
    ] == expected
    assert (top.items.dtype, top.scores.dtype, top.scored.dtype) == (np.int32, np.float32, np.int64)
    assert (top.bound == top.scores[:, -1]).all()


def test_histories_may_be_views_into_a_larger_log() -> None:
    log = Histories.from_lists([[0, 1, 2, 3], [8, 8], [1, 2, 4, 5, 6, 7, 1]])
    view = Histories(log.items, log.starts[[2, 0]], log.stops[[2, 0]] - 1)
    copy = Histories.from_lists([row.tolist() for row in view])
    for build, _ in TWINS:
        assert_same(build(view, NUM_ITEMS).rank(view, 6), build(copy, NUM_ITEMS).rank(copy, 6))


def assert_same(a: TopK, b: TopK) -> None:
    assert all((x == y).all() for x, y in zip(a, b, strict=True))


def test_neighbours_do_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    log = Histories.from_lists(rng.zipf(1.5, size) % 200 for size in rng.integers(1, 30, 150))
    whole = ItemKNN(log, 200, window=7, num_neighbours=5).rank(log, 20)
    monkeypatch.setattr("everyitem.evaluate.baselines._CHUNK", 50)
    assert_same(whole, ItemKNN(log, 200, window=7, num_neighbours=5).rank(log, 20))


@pytest.mark.parametrize("build", [Popularity, Markov])
def test_memory_is_flat_at_a_million_items(build: type[Popularity] | type[Markov]) -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 100, 2000)
    stops = np.cumsum(lengths)
    log = Histories((rng.integers(0, 1000, stops[-1]) ** 2).astype(np.int32), stops - lengths, stops)
    tracemalloc.start()
    top = build(log, 1_000_000).rank(log, 100, exclude_seen=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (top.items >= 0).all()
    assert peak < 80e6  # a few arrays of I; users x items would be 2 GB as booleans


def hit_rate(top: TopK, targets: np.ndarray) -> float:
    return float(measures.recall(measures.ranks_of(top.items, targets), 10).mean())


def tie_averaged_hit_rate(markov: Markov, histories: Histories, targets: np.ndarray) -> float:
    """Hit rate at 10 among true successors if equal counts stood in random order."""

    def chance(last: int, target: int) -> float:
        row = slice(markov.starts[last], markov.starts[last + 1])
        counts = np.ceil(markov.scores[row])
        count = counts[markov.following[row] == target]
        if not len(count):
            return 0.0
        return float(np.clip((10 - (counts > count).sum()) / (counts == count).sum(), 0, 1))

    return float(np.mean([chance(history[-1], target) for history, target in zip(histories, targets, strict=True)]))


@pytest.mark.skipif("EVERYITEM_DATA" not in os.environ, reason="EVERYITEM_DATA does not name a folder of real logs")
@pytest.mark.parametrize(
    ("name", "popularity", "markov", "ours"),
    [("amazon14-beauty", 0.0114, 0.0684, 0.0753), ("ml-latest-small", 0.0197, 0.0689, 0.0705)],
)
def test_hit_rates_of_real_logs(name: str, popularity: float, markov: float, ours: float) -> None:
    """Against counts made independently of this package.

    Those leave the order of equal counts open and do not back off, so the Markov figure is held against the average
    over ties; putting the more popular of equals first and backing off is worth what `ours` adds.
    """
    from everyitem.data.interactions import read_log
    from everyitem.data.splits import leave_one_out

    folder = Path(os.environ["EVERYITEM_DATA"]) / name
    if not folder.exists():
        pytest.skip(f"{folder} does not exist")
    log = read_log(folder)
    split = leave_one_out(log, valid_users=0, min_events=5)
    train, (_, histories, targets) = split.train.histories, split.test
    assert hit_rate(Popularity(train, log.num_items).rank(histories, 10), targets) == pytest.approx(
        popularity, abs=5e-4
    )
    chain = Markov(train, log.num_items)
    assert tie_averaged_hit_rate(chain, histories, targets) == pytest.approx(markov, abs=0.003)
    assert hit_rate(chain.rank(histories, 10), targets) == pytest.approx(ours, abs=5e-4)
