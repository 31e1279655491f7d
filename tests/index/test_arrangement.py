"""Blocks, their order and the bounds above them: what `PQIndex.compact` makes, and that changes keep the answers."""

import threading
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from everyitem.index import PQIndex, arrangement, load_index, reference
from everyitem.index.core import load_core

CORE: Any = load_core()
compiled = pytest.mark.skipif(CORE is reference, reason="this installation has no C++ core")
ITEMS, SPLITS = 20_000, 4
RNG = np.random.default_rng(1)
CLUSTER = RNG.integers(0, 16, ITEMS)
CODES = np.clip(CLUSTER[:, None] * 16 + RNG.integers(-9, 25, (ITEMS, SPLITS)), 0, 255).astype(np.uint8)
CODEBOOKS = np.sin(np.arange(256)[None, :, None] / 40 + RNG.random((SPLITS, 1, 6)) * 6).astype(np.float32)
QUERY = RNG.standard_normal((8, SPLITS * 6)).astype(np.float32)


def answers(index: PQIndex, k: int = 20, **options: Any) -> bytes:
    top = index.top_k(QUERY, k, **options)
    return b"".join(part.tobytes() for part in top[:3])


@pytest.fixture
def index() -> PQIndex:
    index = PQIndex(CODES, CODEBOOKS)
    with patch.multiple(arrangement, PRUNED_FROM=0, TOP_NODES=2):
        index.compact()
    return index


def test_every_slot_holds_the_codes_of_its_item(index: PQIndex) -> None:
    arranged = arrangement.arrange(CODES, index.score_table(QUERY), None, 2)
    assert arranged.positions_S is not None
    assert np.array_equal(np.sort(arranged.positions_S), np.arange(ITEMS))
    rows = arranged.blocks.transpose(0, 2, 1).reshape(-1, SPLITS)
    recoded = arranged.recode_MB[np.arange(SPLITS), CODES]
    assert (np.sort(arranged.recode_MB, axis=1) == np.arange(256)).all()
    assert np.array_equal(rows[:ITEMS], recoded[arranged.positions_S])
    assert (rows[ITEMS:] == rows[ITEMS - 1]).all()
    assert arranged.blocks.tobytes() == reference.to_blocks(CODES, arranged.positions_S, arranged.recode_MB).tobytes()


@compiled
@pytest.mark.parametrize("num_samples", [1, 5, 64])
def test_a_cover_covers_every_code_below_its_node(num_samples: int) -> None:
    table = RNG.standard_normal((num_samples, SPLITS, 256)).astype(np.float32)
    with patch.object(arrangement, "TOP_NODES", 1):
        arranged = arrangement.arrange(CODES, table, None, 1)
    assert [len(level.codes) for level in arranged.levels] == [5, 1, 1]
    low, high = arranged.blocks.min(axis=2), arranged.blocks.max(axis=2)
    for level in arranged.levels:
        chosen = level.codes.transpose(0, 2, 1).reshape(-1, SPLITS)[: len(low)]
        assert (level.low[np.arange(SPLITS), chosen] <= low).all()
        assert (level.high[np.arange(SPLITS), chosen] >= high).all()
        groups = np.arange(0, len(low), 64)
        low, high = np.minimum.reduceat(low, groups), np.maximum.reduceat(high, groups)


@compiled
def test_bisection_brings_similar_items_together(index: PQIndex) -> None:
    blocks, _, levels, recode = arrangement.arrange(CODES, index.score_table(QUERY), None, 1)
    spread = [
        (b.max(axis=2).astype(int) - b.min(axis=2)).mean() for b in (blocks, reference.to_blocks(CODES, None, recode))
    ]
    assert spread[0] < spread[1] / 2
    assert (index.top_k(QUERY, 10, algorithm="block_prune").scored < ITEMS / 10).all()
    assert len(levels) == 1


@compiled
def test_threads_change_nothing_in_the_arrangement(index: PQIndex) -> None:
    with patch.object(arrangement, "TOP_NODES", 2):
        one, many = (arrangement.arrange(CODES, index.score_table(QUERY), None, threads) for threads in (1, 5))
    for name, array in one.sections().items():
        assert array.tobytes() == many.sections()[name].tobytes(), name


def test_added_and_removed_items_move_in_and_out_when_compacted(index: PQIndex) -> None:
    for round_ in range(3):
        index.add(codes=CODES[round_ * 100 : round_ * 100 + 90])
        index.remove(np.arange(round_ * 7, 4000, 11))
        scattered = answers(index)
        anew = PQIndex(index.codes_IM, CODEBOOKS)
        anew.remove(np.flatnonzero(index.removed_I))
        assert scattered == answers(anew) == answers(anew, algorithm="pqtopk")
        with patch.multiple(arrangement, PRUNED_FROM=0, TOP_NODES=2):
            index.compact(QUERY)
        assert answers(index) == scattered
    gone = ~index.removed_I
    assert (index.top_k(QUERY, index.num_items).items >= 0).sum() == len(QUERY) * gone.sum()


def test_everything_may_be_removed(index: PQIndex) -> None:
    index.remove(np.arange(ITEMS))
    assert (index.top_k(QUERY, 5).items == -1).all()
    index.compact()
    assert (index.top_k(QUERY, 5).items == -1).all()
    assert index.add(codes=CODES[:3]).tolist() == [ITEMS, ITEMS + 1, ITEMS + 2]
    assert set(index.top_k(QUERY[:1], 5).items[0]) == {ITEMS, ITEMS + 1, ITEMS + 2, -1}


def test_items_added_while_it_is_compacted_are_kept(index: PQIndex) -> None:
    started = threading.Event()
    lay_out = arrangement.lay_out

    def slow(*args: Any) -> Any:
        started.set()
        made = lay_out(*args)
        added.wait()
        return made

    added = threading.Event()
    with patch.object(arrangement, "lay_out", slow):
        thread = threading.Thread(target=index.compact)
        thread.start()
        started.wait()
        index.add(codes=CODES[:5])
        index.remove([3])
        before = answers(index)
        added.set()
        thread.join()
    assert index.num_items == ITEMS + 5
    assert answers(index) == before
    assert np.flatnonzero(index.removed_I).tolist() == [3]


def test_an_arrangement_survives_a_file(index: PQIndex, tmp_path: Path) -> None:
    index.add(codes=CODES[:70])
    index.remove([5, ITEMS + 2])
    index.save(tmp_path)
    for verify in (True, False):
        loaded = load_index(tmp_path, verify=verify)
        assert isinstance(loaded, PQIndex)
        assert answers(loaded) == answers(index)
        top = loaded.top_k(QUERY, 10)
        assert np.array_equal(top.scored, index.top_k(QUERY, 10).scored)


@pytest.mark.parametrize("damage", ["twice", "outside", "short", "type"])
def test_a_damaged_arrangement_is_refused(index: PQIndex, damage: str) -> None:
    arranged = arrangement.arrange(CODES, index.score_table(QUERY), None, 1)
    assert arranged.positions_S is not None
    positions = arranged.positions_S.copy()
    if damage == "type":
        positions = positions.astype(np.int64)  # type: ignore[assignment]
    elif damage == "short":
        positions = positions[:-64]
    else:
        positions[7] = positions[8] if damage == "twice" else ITEMS
    with pytest.raises(ValueError, match="arrangement"):
        arranged._replace(positions_S=positions).check(ITEMS, SPLITS)


@pytest.mark.parametrize("algorithm", ["bounded_scan", "block_prune"])
@pytest.mark.parametrize("gap_factor", [1.0, 0.9, 0.5, 0.01])
def test_less_than_the_whole_gap_is_faster_and_says_what_it_may_have_missed(
    index: PQIndex, algorithm: str, gap_factor: float
) -> None:
    exact = index.top_k(QUERY, index.num_items)
    found = index.top_k(QUERY, 10, algorithm=algorithm, gap_factor=gap_factor)
    for row in range(len(QUERY)):
        outside = exact.scores[row, ~np.isin(exact.items[row], found.items[row])]
        assert outside.max() <= found.bound[row]
    if gap_factor == 1.0:
        assert (found.bound == found.scores[:, -1]).all()
    else:
        assert found.scored.sum() <= index.top_k(QUERY, 10, algorithm=algorithm).scored.sum()


@pytest.mark.parametrize("gap_factor", [0, -1, 1.5, np.nan])
def test_a_gap_factor_out_of_range_is_explained(index: PQIndex, gap_factor: float) -> None:
    with pytest.raises(ValueError, match="gap_factor"):
        index.top_k(QUERY, 1, gap_factor=gap_factor)


@compiled
def test_sub_items_are_called_anew_where_that_bounds_better() -> None:
    rng = np.random.default_rng(3)
    shuffled = np.stack([rng.permutation(256) for _ in range(SPLITS)]).astype(np.uint8)  # as k-means leaves them
    codes = shuffled[np.arange(SPLITS), CODES]
    books = np.empty_like(CODEBOOKS)
    books[np.arange(SPLITS)[:, None], shuffled] = CODEBOOKS
    index = PQIndex(codes, books)
    with patch.multiple(arrangement, PRUNED_FROM=0, TOP_NODES=2):
        index.compact(QUERY)
    arranged = index._state.arranged
    assert arranged is not None
    assert (arranged[0].recode_MB != np.arange(256)).any()
    assert index.predict_cost(QUERY, 10).items.mean() < ITEMS / 4
    plain = PQIndex(CODES, CODEBOOKS)
    assert answers(index) == answers(plain)
