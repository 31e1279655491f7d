"""What a search will cost, beforehand; and that the cores which share a search change no answer."""

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from scipy.special import log_softmax

from everyitem.index import PQIndex, arrangement, reference
from everyitem.index.core import load_core
from everyitem.index.cost import Clock, timed
from everyitem.index.pq import ALGORITHMS

CORE: Any = load_core()
compiled = pytest.mark.skipif(CORE is reference, reason="this installation has no C++ core")
ITEMS = 600_000
RNG = np.random.default_rng(2)
CODES = np.clip(RNG.integers(0, 16, (ITEMS, 1)) * 16 + RNG.integers(-6, 22, (ITEMS, 2)), 0, 255).astype(np.uint8)
CODEBOOKS = np.sin(np.arange(256)[None, :, None] / 30 + RNG.random((2, 1, 3)) * 6).astype(np.float32)
QUERY = RNG.standard_normal((3, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def index() -> PQIndex:
    index = PQIndex(CODES, CODEBOOKS)
    index.compact(QUERY)
    return index


@compiled
@pytest.mark.parametrize("algorithm", [None, "bounded_scan", "block_prune"])
@pytest.mark.parametrize("k", [1, 10, 2000])
def test_a_row_shared_by_cores_has_the_same_bits(index: PQIndex, algorithm: str | None, k: int) -> None:
    scores = reference.pq_scores(index.score_table(QUERY), CODES)
    for options in ({}, {"allow": RNG.random(ITEMS) < 0.3}):
        wanted = reference.top_k(scores, k, **options)
        for rows, threads in ((1, 2), (1, 5), (3, 1), (3, 4)):  # one row by all; rows together; a row by more than one
            found = index.top_k(QUERY[:rows], k, algorithm=algorithm, threads=threads, **options)
            for one, other in zip(found[:3], wanted[:3], strict=True):
                assert one.tobytes() == other[:rows].tobytes(), (rows, threads)


@compiled
def test_a_deadline_stops_rows_that_are_read_together(index: PQIndex) -> None:
    exact = index.top_k(QUERY, ITEMS)
    for deadline in (1e-5, 1e-4, 2e-4, 4e-4):
        for threads in (1, 2):
            found = index.top_k(QUERY, 5, algorithm="bounded_scan", deadline=deadline, threads=threads)
            for row in range(len(QUERY)):
                outside = exact.scores[row, ~np.isin(exact.items[row], found.items[row])]
                assert outside.max() <= found.bound[row]


@compiled
def test_the_items_are_those_looked_at(index: PQIndex) -> None:
    sharp = np.zeros((1, 2, 256), np.float32)
    sharp[0, :, 40] = 1
    flat = np.zeros((1, 2, 256), np.float32)
    cost = index.predict_cost(np.concatenate([sharp, flat]), 10)
    assert cost.items[0] < ITEMS / 10
    assert cost.items[1] == ITEMS
    assert (cost.microseconds > 0).all()
    assert cost.microseconds[0] <= cost.microseconds[1]
    few = index.predict_cost(flat, 10, allow=np.arange(ITEMS) < 50)
    assert few.items.tolist() == [50]


def test_the_clock_is_a_line_through_what_was_timed() -> None:
    items = np.array([100, 1000, 3000])
    ticks = iter(np.repeat([0.0, 1.1e-6, 0.0, 2e-6, 0.0, 4e-6] * 3, 1))
    with patch("everyitem.index.cost.time.perf_counter", lambda: next(ticks)):
        clock = timed(lambda query: None, items, np.zeros((3, 1), np.float32))
    assert clock == pytest.approx(Clock(1.0, 0.001))
    assert clock.predict(np.array([5000])).microseconds == pytest.approx([6.0])
    same = timed(lambda query: None, np.array([7, 7]), np.zeros((2, 1), np.float32))
    assert same.item_us == 0


@pytest.mark.parametrize("num_splits", [16, 32, 64])
def test_parallel_semantic_id_heads_decode_exactly(num_splits: int) -> None:
    rng = np.random.default_rng(num_splits)
    codes = rng.integers(0, 256, (5000, num_splits), dtype=np.uint8)
    index = PQIndex(codes, rng.standard_normal((num_splits, 256, 4)).astype(np.float32))
    with patch.multiple(arrangement, PRUNED_FROM=0):
        index.compact()
    heads = rng.standard_normal((3, num_splits * 4)).astype(np.float32)
    log_probabilities = log_softmax(index.score_table(heads) / 0.05, axis=2)
    wanted = reference.top_k(reference.pq_scores(log_probabilities, codes), 20)
    for algorithm in (None, *ALGORITHMS):
        found = index.top_k(log_probabilities, 20, algorithm=algorithm)
        assert found.items.tobytes() == wanted.items.tobytes(), algorithm
        assert found.scores.tobytes() == wanted.scores.tobytes(), algorithm


def test_a_table_is_what_its_query_stands_for(index: PQIndex) -> None:
    for one, other in zip(index.top_k(index.score_table(QUERY), 9), index.top_k(QUERY, 9), strict=True):
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize(
    ("shape", "value", "message"),
    [((1, 2, 255), 0, "shape"), ((1, 3, 256), 0, "shape"), ((1, 2, 256), np.nan, "NaN"), ((1, 2, 256), 3e38, "overfl")],
)
def test_tables_that_do_not_fit_are_refused(index: PQIndex, shape: Any, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        index.top_k(np.full(shape, value, np.float32), 1)


def test_the_papers_iterations_fall_with_the_batch(index: PQIndex) -> None:
    steps = [index.prune_steps(QUERY, 10, batch_size=batch) for batch in (1, 8, 256)]
    assert (steps[0] > steps[1]).all()
    assert (steps[1] >= steps[2]).all()
    small = PQIndex(CODES[:2000], CODEBOOKS)
    twin = reference.PQCatalogue(np.ascontiguousarray(CODEBOOKS.transpose(0, 2, 1)), [(CODES[:2000],)], 1, None)
    assert small.prune_steps(QUERY, 10).tolist() == twin.steps(QUERY, 10, 8, 1).tolist()
