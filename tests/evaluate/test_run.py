"""Evaluation of whole runs: batches, flags, JSON, pairing, clocks."""

import json
import time

import numpy as np
import pytest

from everyitem.evaluate import measures
from everyitem.evaluate.baselines import Markov, Popularity
from everyitem.evaluate.run import Evaluation, compare, evaluate, time_stages
from everyitem.types import Histories, TopK

NUM_ITEMS = 40


@pytest.fixture(scope="module")
def log() -> tuple[Histories, np.ndarray]:
    rng = np.random.default_rng(0)
    rows = [
        (rng.integers(0, NUM_ITEMS) + np.cumsum(rng.integers(0, 3, n))) % NUM_ITEMS for n in rng.integers(2, 12, 300)
    ]
    return Histories.from_lists(row[:-1] for row in rows), np.array([row[-1] for row in rows], np.int32)


def run(log: tuple[Histories, np.ndarray], ranker_type: type[Markov] | type[Popularity], **flags: object) -> Evaluation:
    histories, targets = log
    return evaluate(ranker_type(histories, NUM_ITEMS), histories, targets, num_items=NUM_ITEMS, **flags)  # type: ignore[arg-type]


def test_metrics_are_those_of_the_ranking(log: tuple[Histories, np.ndarray]) -> None:
    histories, targets = log
    evaluation = run(log, Markov, ks=(5, 10))
    top = Markov(histories, NUM_ITEMS).rank(histories, 10)
    ranks = [1 + row.tolist().index(t) if t in row else 0 for row, t in zip(top.items, targets, strict=True)]
    assert evaluation.ranks_U.tolist() == ranks
    ndcg = np.array([1 / np.log2(1 + rank) if rank else 0 for rank in ranks])
    assert evaluation.metrics()["ndcg@10"].value == pytest.approx(ndcg.mean())
    assert evaluation.metrics()["recall@5"].value == np.mean([0 < rank <= 5 for rank in ranks])
    assert list(evaluation.metrics()) == [f"{m}@{k}" for m in ("ndcg", "recall", "mrr") for k in (5, 10)]


@pytest.mark.parametrize("batch", [1, 7, 300, 1000])
def test_batches_change_nothing(log: tuple[Histories, np.ndarray], batch: int) -> None:
    steps: list[tuple[int, int]] = []
    popularity = np.arange(NUM_ITEMS)
    parts = run(log, Markov, batch=batch, popularity=popularity, progress=lambda *step: steps.append(step))
    assert parts.to_json() == run(log, Markov, popularity=popularity).to_json()
    assert steps[-1] == (300, 300)
    assert len(steps) == -(-300 // batch)


def test_shown_list_may_be_longer_or_shorter_than_the_cut_offs(log: tuple[Histories, np.ndarray]) -> None:
    short, long = run(log, Popularity, ks=(5,), shown=1), run(log, Popularity, ks=(5,), shown=20)
    assert (short.ranks_U == long.ranks_U).all()
    assert short.ranks_U.max() <= 5
    assert (short.coverage, long.coverage) == (1 / NUM_ITEMS, 20 / NUM_ITEMS)


def test_seen_targets_are_counted_and_lost_when_seen_items_are_excluded(log: tuple[Histories, np.ndarray]) -> None:
    seen = np.array([target in history for history, target in zip(*log, strict=True)])
    evaluation = run(log, Markov, exclude_seen=True)
    assert evaluation.seen_targets == seen.mean()
    assert 0 < seen.sum() < len(seen)
    assert not evaluation.ranks_U[seen].any()
    assert run(log, Markov).ranks_U[seen].any()


def test_json_has_the_fixed_shape(log: tuple[Histories, np.ndarray]) -> None:
    counts = np.bincount(log[0].items, minlength=NUM_ITEMS)
    plain = json.loads(json.dumps(run(log, Markov, popularity=counts).to_json(), allow_nan=False))
    assert set(plain["ndcg@10"]) == {"value", "low", "high"}
    assert plain["ndcg@10"]["low"] < plain["ndcg@10"]["value"] < plain["ndcg@10"]["high"]
    assert plain["users"] == 300
    assert {"coverage@10", "head_share@10", "seen_targets", "exclude_seen", "num_items"} <= set(plain)
    assert "encoder_ms" not in plain
    assert "head_share@10" not in run(log, Markov).to_json()


def test_compare_is_paired_by_user(log: tuple[Histories, np.ndarray]) -> None:
    markov, popularity = run(log, Markov, ks=(1, 10)), run(log, Popularity, ks=(10, 20))
    differences = compare(markov, popularity)
    assert list(differences) == ["ndcg@10", "recall@10", "mrr@10"]
    a, b = markov.values("recall@10"), popularity.values("recall@10")
    assert differences["recall@10"] == measures.paired_difference(a, b)
    assert differences["recall@10"].low > 0


def test_different_users_are_not_compared(log: tuple[Histories, np.ndarray]) -> None:
    histories, targets = log
    other = run((histories, targets[::-1].copy()), Markov)
    with pytest.raises(ValueError, match="same split"):
        compare(run(log, Markov), other)


def test_one_target_per_history(log: tuple[Histories, np.ndarray]) -> None:
    histories, targets = log
    with pytest.raises(ValueError, match="got 300 histories and 299 targets"):
        run((histories, targets[1:]), Popularity)
    with pytest.raises(ValueError, match="got 0 histories"):
        run((histories.select(slice(0, 0)), targets[:0]), Popularity)


class Stages:
    """An encoder and an index of known speed that note whom they were asked about."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def encode(self, histories: Histories) -> int:
        assert len(histories) == 1
        self.asked.append(int(histories[0][0]))
        time.sleep(0.004)
        return self.asked[-1]

    def top_k(self, query: int, k: int) -> TopK:
        assert query == self.asked[-1]
        time.sleep(0.002)
        return TopK(
            np.zeros((1, k), np.int32), np.zeros((1, k), np.float32), np.zeros(1, np.float32), np.zeros(1, np.int64)
        )


def test_stages_are_timed_apart_and_without_the_warm_up() -> None:
    stages, histories = Stages(), Histories.from_lists([[u] for u in range(50)])
    timing = time_stages(stages.encode, stages.top_k, histories, num_users=15, warm_up=3)
    assert timing.users == 15
    assert len(stages.asked) == 18
    assert len(set(stages.asked[3:])) == 15
    assert stages.asked[:3] == stages.asked[3:6]
    for latency, least in zip(timing[:3], (4, 2, 6), strict=True):
        assert least <= latency.median <= latency.p95
    assert timing.encoder_ms.median > timing.scoring_ms.median
    again = Stages()
    time_stages(again.encode, again.top_k, histories, num_users=15, warm_up=3)
    assert again.asked == stages.asked


def test_fewer_users_than_wanted_are_all_timed() -> None:
    stages = Stages()
    assert time_stages(stages.encode, stages.top_k, Histories.from_lists([[0], [1]]), warm_up=0).users == 2
    assert sorted(stages.asked) == [0, 1]
    with pytest.raises(ValueError, match="no histories"):
        time_stages(stages.encode, stages.top_k, Histories.from_lists([]))
