"""What `PQIndex` says about itself, and what it refuses. Its laws are in tests/test_laws.py."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from everyitem.index import PQIndex

RNG = np.random.default_rng(0)
CODES = RNG.integers(0, 20, (300, 4), dtype=np.uint8)
CODEBOOKS = RNG.standard_normal((4, 20, 3)).astype(np.float32)
QUERY = RNG.standard_normal((2, 12)).astype(np.float32)
BITS = np.packbits(np.ones(300, bool), bitorder="little")


@pytest.fixture
def index() -> PQIndex:
    return PQIndex(CODES, CODEBOOKS)


def test_its_shape_and_arrays(index: PQIndex) -> None:
    assert (index.num_items, index.num_splits, index.num_sub_items, index.dim) == (300, 4, 20, 12)
    assert np.array_equal(index.codes_IM, CODES)
    assert np.array_equal(index.codebooks_MBd, CODEBOOKS)
    with pytest.raises(ValueError, match="read-only"):
        index.codes_IM[0] = 0


def test_a_score_is_the_dot_product_with_the_item_vector(index: PQIndex) -> None:
    turned = PQIndex(CODES, CODEBOOKS, rotation_DD=np.linalg.qr(RNG.standard_normal((12, 12)))[0])
    everything = np.arange(300)
    for one in (index, turned):
        wanted = QUERY.astype(np.float64) @ one.vectors(everything).T
        assert np.allclose(one.scores(QUERY, np.tile(everything, (2, 1))), wanted, atol=1e-5)
    assert not np.allclose(index.vectors(everything), turned.vectors(everything))


@pytest.mark.parametrize("rotate", [False, True])
def test_vectors_it_returns_are_encoded_back_to_the_same_codes(rotate: bool) -> None:
    vectors = RNG.standard_normal((400, 8)).astype(np.float32)
    index = PQIndex.from_embeddings(vectors, 2, num_sub_items=16, rotate=rotate)
    error = ((index.vectors(np.arange(400)) - vectors) ** 2).mean() / (vectors**2).mean()
    assert error < 0.4
    added = index.add(vectors=index.vectors([3, 4]))
    assert np.array_equal(index.codes_IM[added], index.codes_IM[[3, 4]])


def test_an_item_added_live_can_be_found_and_removed(index: PQIndex) -> None:
    best = CODEBOOKS @ QUERY[0].reshape(4, 3, 1)
    (position,) = index.add(codes=best.argmax(axis=1).reshape(1, 4).astype(np.uint8))
    assert position == 300
    top = index.top_k(QUERY[:1], 1)
    assert top.items[0, 0] == index.top_k(QUERY[:1], 2).items[0, 0]
    assert index.scores(QUERY[:1], [[position]]) == top.scores
    index.remove(position)
    assert position not in index.top_k(QUERY[:1], 301).items


def test_no_rows_and_no_items() -> None:
    empty = PQIndex(CODES[:0], CODEBOOKS)
    assert empty.top_k(QUERY, 3).items.tolist() == [[-1] * 3] * 2
    assert empty.top_k(QUERY[:0], 3).items.shape == (0, 3)
    assert empty.scores(QUERY[:0], np.empty((0, 5), np.int32)).shape == (0, 5)
    assert empty.add(codes=CODES).tolist() == list(range(300))
    assert np.array_equal(empty.top_k(QUERY, 5).items, PQIndex(CODES, CODEBOOKS).top_k(QUERY, 5).items)


def test_the_arguments_are_not_modified(index: PQIndex) -> None:
    exclude = np.array([[9, -1, 3, 3], [8, 7, 6, 5]], np.int32)
    query, before = QUERY.copy(), exclude.copy()
    index.top_k(query, 3, exclude=exclude, allow=BITS)
    assert np.array_equal(exclude, before)
    assert np.array_equal(query, QUERY)


def test_searches_see_whole_states_while_another_thread_writes(index: PQIndex) -> None:
    def write() -> None:
        for _ in range(200):
            index.remove(index.add(codes=CODES[:3]))

    writer = threading.Thread(target=write)
    wanted = index.top_k(QUERY, 5)
    writer.start()
    while writer.is_alive():
        top = index.top_k(QUERY, 20, threads=1)
        kept = [row[row < 300][:5].tolist() for row in top.items]
        assert kept == wanted.items.tolist()
    writer.join()
    assert index.num_items == 900
    assert index.removed_I.sum() == 600


BAD_SEARCHES: dict[str, tuple[Callable[[PQIndex], Any], str]] = {
    "nan": (lambda i: i.top_k(QUERY * np.nan, 3), "the query: got NaN or infinity"),
    "infinity": (lambda i: i.top_k(QUERY * np.inf, 3), "the query: got NaN or infinity"),
    "one nan": (lambda i: i.top_k(np.where(np.arange(12) == 5, np.nan, QUERY), 3), "NaN or infinity"),
    "too large": (lambda i: i.top_k(QUERY * 1e38, 3), "could overflow float32"),
    "float64 too large": (lambda i: i.top_k(QUERY.astype(float) * 1e300, 3), "NaN or infinity .as float32."),
    "complex": (lambda i: i.top_k(QUERY * 1j, 3), "the query: got complex"),
    "text": (lambda i: i.top_k([["a"] * 12], 3), "the query: got <U1"),
    "wrong dim": (lambda i: i.top_k(QUERY[:, :11], 3), r"shape \(2, 11\), but this index needs \(rows, 12\)"),
    "one dimension": (lambda i: i.top_k(QUERY[0], 3), "numbers in 2 dimensions are needed"),
    "k 0": (lambda i: i.top_k(QUERY, 0), "k is 0, but it must be at least 1"),
    "k -1": (lambda i: i.top_k(QUERY, -1), "k is -1"),
    "k 2**31": (lambda i: i.top_k(QUERY, 2**31), "at most 2147483647"),
    "threads 0": (lambda i: i.top_k(QUERY, 3, threads=0), "threads is 0"),
    "deadline": (lambda i: i.top_k(QUERY, 3, deadline=-1), "number of seconds >= 0"),
    "deadline nan": (lambda i: i.top_k(QUERY, 3, deadline=np.nan), "number of seconds >= 0"),
    "algorithm": (lambda i: i.top_k(QUERY, 3, algorithm="quicksort"), "there are pqtopk"),
    "allow short": (lambda i: i.top_k(QUERY, 3, allow=np.ones(299, bool)), r"bool of shape \(300,\)"),
    "allow int": (lambda i: i.top_k(QUERY, 3, allow=np.ones(300, int)), "allow is int64"),
    "allow rows": (lambda i: i.top_k(QUERY, 3, allow=np.ones((3, 300), bool)), r"or \(2, 300\)"),
    "allow bits": (lambda i: i.top_k(QUERY, 3, allow=BITS[:-1]), r"packed uint8 .* shape \(38,\)"),
    "exclude flat": (lambda i: i.top_k(QUERY, 3, exclude=np.array([1, 2])), r"int32 of shape \(2, anything\)"),
    "exclude rows": (lambda i: i.top_k(QUERY, 3, exclude=np.zeros((1, 2), int)), "shape"),
    "exclude float": (lambda i: i.top_k(QUERY, 3, exclude=np.zeros((2, 2))), "float64"),
    "exclude large": (lambda i: i.top_k(QUERY, 3, exclude=np.full((2, 2), 300)), "300, but .* 0 to 299"),
    "exclude -2": (lambda i: i.top_k(QUERY, 3, exclude=np.full((2, 2), -2)), "exclude holds -2"),
    "scores": (lambda i: i.scores(QUERY, [[300], [0]]), "items holds 300"),
    "scores shape": (lambda i: i.scores(QUERY, [0, 1]), r"shape \(2,\)"),
    "vectors": (lambda i: i.vectors([-1]), "positions holds -1"),
    "remove": (lambda i: i.remove([300]), "positions 0 to 299"),
    "remove float": (lambda i: i.remove([1.5]), "list of integers"),
    "add nothing": (lambda i: i.add(), "exactly one"),
    "add both": (lambda i: i.add(codes=CODES, vectors=QUERY), "exactly one"),
    "add code": (lambda i: i.add(codes=np.full((1, 4), 20, np.uint8)), "codes hold 20, but .* 0 to 19"),
    "add dim": (lambda i: i.add(vectors=QUERY[:, :3]), r"needs \(items, 12\)"),
    "add nan": (lambda i: i.add(vectors=QUERY * np.nan), "vectors: got NaN"),
    "code": (lambda i: PQIndex(CODES, CODEBOOKS[:, :19]), "codes hold 19, but the codebooks have sub-items 0 to 18"),
    "code dtype": (lambda i: PQIndex(CODES.astype(np.int32), CODEBOOKS), "codes are int32"),
    "splits": (lambda i: PQIndex(CODES[:, :3], CODEBOOKS), r"uint8 of shape \(items, 4\)"),
    "codebook nan": (lambda i: PQIndex(CODES, CODEBOOKS * np.nan), "codebooks: got NaN"),
    "codebook shape": (lambda i: PQIndex(CODES, CODEBOOKS[0]), "in 3 dimensions are needed"),
    "one sub-item": (lambda i: PQIndex(CODES * 0, CODEBOOKS[:, :1]), "2 <= B <= 256"),
    "rotation": (lambda i: PQIndex(CODES, CODEBOOKS, rotation_DD=np.eye(11)), r"needs \(12, 12\)"),
}


@pytest.mark.parametrize(("call", "message"), BAD_SEARCHES.values(), ids=BAD_SEARCHES)
def test_mistakes_are_explained(index: PQIndex, call: Callable[[PQIndex], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(index)
    assert index.num_items == 300


def test_the_first_searches_with_inverted_lists_may_come_at_once() -> None:
    codes = RNG.integers(0, 20, (200_000, 4), dtype=np.uint8)
    index, found = PQIndex(codes, CODEBOOKS), []

    def search() -> None:
        found.append(index.top_k(QUERY, 5, algorithm="recjpqprune").items.tobytes())

    threads = [threading.Thread(target=search, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert found == [index.top_k(QUERY, 5, algorithm="pqtopk").items.tobytes()] * 4


def test_log_probabilities_of_splits_decode_exactly(index: PQIndex) -> None:
    """Parallel semantic-ID heads (RPG): sum_m log p(code_m) over every item, then the best; as scores rank them."""
    table = index.score_table(QUERY).astype(np.float64)
    log_p = (table - np.log(np.exp(table).sum(2, keepdims=True))).astype(np.float32)
    every = log_p[:, np.arange(4), CODES].sum(2, dtype=np.float64)
    found = index.top_k(log_p, 10)
    assert found.items.tolist() == np.argsort(-every, axis=1, kind="stable")[:, :10].tolist()
    assert found.items.tolist() == index.top_k(QUERY, 10).items.tolist()
    assert np.all(np.exp(found.scores) < 1)
