import numpy as np
import pytest

from everyitem.bench import methods
from everyitem.bench.check import WrongAnswer, check, num_checked, recall, twin
from everyitem.bench.methods import Found, Method
from everyitem.index import PQIndex, reference

K = 7


@pytest.fixture
def tied():
    """An index where many items tie, some of them removed, and queries for it."""
    rng = np.random.default_rng(0)
    index = PQIndex(rng.integers(0, 3, (900, 4), dtype=np.uint8), rng.integers(-2, 3, (4, 3, 2)).astype(np.float32))
    index.remove([0, 5, 899])
    return index, rng.integers(-2, 3, (6, 8)).astype(np.float32)


def changed(index, promise, change):
    """A method that answers rightly but for what `change` does to its items and scores."""

    def search(queries, k, threads):
        found = index.top_k(queries, k)
        items, scores = found.items.astype(np.int64), found.scores.copy()
        change(items, scores)
        return Found(items, scores)

    return Method("odd", search, promise, 0, 0)


def test_the_twin_in_chunks_is_the_reference(tied, monkeypatch):
    index, queries = tied
    whole = reference.top_k(reference.pq_scores(index.score_table(queries), index.codes_IM), K, ~index.removed_I)
    for chunk in (1, 64, 899, 1 << 20):
        monkeypatch.setattr("everyitem.bench.check.CHUNK_ITEMS", chunk)
        found = twin(index, queries, K)
        assert found.items.tolist() == whole.items.tolist()
        assert found.scores.tobytes() == whole.scores.tobytes()


def test_the_twin_of_a_small_catalogue_is_padded():
    index = PQIndex(np.zeros((2, 1), np.uint8), np.ones((1, 2, 1), np.float32))
    found = twin(index, np.ones((1, 1), np.float32), 4)
    assert found.items.tolist() == [[0, 1, -1, -1]]
    assert found.scores.tolist() == [[1, 1, -np.inf, -np.inf]]


def test_all_of_ours_pass(tied):
    index, queries = tied
    check(index, methods.algorithms(index, methods.built(index, None)), queries, K)


def swap_first_two(items, scores):
    items[:, [0, 1]] = items[:, [1, 0]]


def one_bit(items, scores):
    scores[-1, -1] = np.nextafter(scores[-1, -1], np.float32(np.inf))


def last_item_missing(items, scores):
    items[:, -1] = -1


def same_item_twice(items, scores):
    items[:, 1] = items[:, 0]


def scores_too_high(items, scores):
    scores += 0.01


def another_item(items, scores):
    items[:, 0] = 0  # removed, and no better than the others


@pytest.mark.parametrize(
    ("promise", "change", "complaint"),
    [
        ("bits", swap_first_two, "bits differ"),
        ("bits", one_bit, "bits differ"),
        ("exact", last_item_missing, "too few"),
        ("exact", same_item_twice, "twice"),
        ("exact", scores_too_high, "scores differ"),
        ("exact", another_item, "another score"),
        ("approximate", same_item_twice, "twice"),
    ],
)
def test_a_broken_promise_is_noticed(tied, promise, change, complaint):
    index, queries = tied
    with pytest.raises(WrongAnswer, match=complaint):
        check(index, [changed(index, promise, change)], queries, K)


@pytest.mark.parametrize(("promise", "change"), [("exact", one_bit), ("approximate", another_item)])
def test_what_a_promise_allows_passes(tied, promise, change):
    index, queries = tied
    check(index, [changed(index, promise, change)], queries, K)


def test_exact_peers_may_order_ties_as_they_like():
    index = PQIndex(np.zeros((9, 1), np.uint8), np.ones((1, 2, 1), np.float32))
    queries = np.ones((2, 1), np.float32)
    check(index, [changed(index, "exact", swap_first_two)], queries, 4)
    with pytest.raises(WrongAnswer):
        check(index, [changed(index, "bits", swap_first_two)], queries, 4)


def test_recall_counts_ties_and_misses(tied):
    index, queries = tied
    wanted = twin(index, queries, K)
    assert recall(index, Found(wanted.items, wanted.scores), queries, wanted) == 1
    half = wanted.items.copy()
    half[:, K // 2 :] = -1
    assert recall(index, Found(half, wanted.scores), queries, wanted) == pytest.approx((K // 2) / K)


def test_large_catalogues_are_checked_with_fewer_queries():
    codes = np.broadcast_to(np.uint8(0), (20_000_000, 1))
    assert num_checked(PQIndex(codes[:1000], np.ones((1, 2, 1), np.float32))) == 10
    assert num_checked(PQIndex(codes, np.ones((1, 2, 1), np.float32))) == 1
