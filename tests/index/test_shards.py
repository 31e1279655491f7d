import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everyitem.index import DenseIndex, PQIndex, load_index
from everyitem.index.shards import (
    cut_filters,
    even_starts,
    locate,
    merge_top_k,
    outline,
    piece,
    read_shards,
    save_shards,
    unanswered,
)
from everyitem.types import TopK


def catalogue(kind, seed=0, num_items=200, ties=False):
    """An index of few distinct scores, or of many, and the rows that it was made of."""
    rng = np.random.default_rng(seed)
    codes, codebooks = rng.integers(0, 5, (num_items, 4), dtype=np.uint8), rng.standard_normal((4, 5, 3))
    codebooks = (np.sign(codebooks) if ties else codebooks).astype(np.float32)
    rotation = np.linalg.qr(rng.standard_normal((12, 12)))[0].astype(np.float32)
    if kind == "dense":
        return DenseIndex(codebooks[np.arange(4), codes].reshape(num_items, -1)), rng
    return PQIndex(codes, codebooks, rotation_DD=rotation if kind == "rotated" else None), rng


every_kind = pytest.mark.parametrize("kind", ["pq", "rotated", "dense"])


@every_kind
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 999), k=st.integers(1, 90), silent=st.sets(st.integers(0, 3)), ties=st.booleans())
def test_shards_that_do_not_answer_leave_a_true_bound(kind, seed, k, silent, ties):
    index, rng = catalogue(kind, seed, ties=ties)
    query, starts = rng.standard_normal((3, 12)).astype(np.float32), even_starts(200, 4)
    parts = [
        unanswered(outline(part), query, k) if shard in silent else part.top_k(query, k)
        for shard, part in enumerate(piece(index, *ends) for ends in pairwise(starts))
    ]
    found, whole = merge_top_k(parts, starts, k), index.top_k(query, 200)
    for row, items in enumerate(found.items):
        outside = ~np.isin(whole.items[row], items)
        assert (whole.scores[row, outside] <= found.bound[row]).all()
        assert np.isin(items[items >= 0], whole.items[row, ~outside]).all()
    certain = found.bound <= found.scores[:, -1]
    assert found.items[certain].tolist() == whole.items[certain, :k].tolist()
    heard = sum(np.diff(starts)[[shard for shard in range(4) if shard not in silent]])
    assert (found.scored == heard).all() or kind != "dense"
    if not silent:
        assert (found.bound == found.scores[:, -1]).all()


@every_kind
def test_a_shard_that_the_deadline_stopped_leaves_a_true_bound(kind):
    index, rng = catalogue(kind)
    query, starts = rng.standard_normal((2, 12)).astype(np.float32), even_starts(200, 2)
    parts = [piece(index, 0, 96).top_k(query, 5, deadline=0), piece(index, 96, 200).top_k(query, 5)]
    found = merge_top_k(parts, starts, 5)
    assert (found.bound >= index.top_k(query, 1).scores[:, 0]).all()
    assert (found.items >= 96).all()


def test_positions_beyond_int32_stay_apart():
    part = TopK(
        np.array([[5, -1]], np.int32), np.array([[1.0, -np.inf]], np.float32), np.zeros(1, np.float32), np.ones(1)
    )
    starts = [0, 2**31 - 8, 2**32]
    found = merge_top_k([part, part], starts, 2)
    assert found.items.tolist() == [[5, 2**31 - 3]]
    assert found.items.dtype == np.int64
    excluded = [e.tolist() for _, e in cut_filters(starts, 1, exclude=np.array([[2**31 + 1, 7, -1]]))]
    assert excluded == [[[7]], [[9]]]


def test_filters_are_cut_where_shards_begin():
    allow, exclude = np.arange(20) % 3 == 0, np.array([[19, 0, -1], [8, 9, 8]])
    (bits, excluded), (later_bits, later_excluded) = cut_filters([0, 8, 20], 2, allow, exclude)
    assert np.unpackbits(bits, bitorder="little").tolist() == allow[:8].tolist()
    assert np.unpackbits(later_bits, bitorder="little")[:12].tolist() == allow[8:].tolist()
    assert excluded.tolist() == [[0], [-1]]
    assert later_excluded.tolist() == [[-1, -1, 11], [0, 0, 1]]
    assert list(cut_filters([0, 8, 20], 2)) == [(None, None)] * 2
    with pytest.raises(ValueError, match="exclude holds 20"):
        next(cut_filters([0, 8, 20], 1, exclude=[[20]]))


@pytest.mark.parametrize(("num_items", "num_shards"), [(8, 1), (16, 2), (17, 2), (1000, 125), (1003, 7), (3, 1)])
def test_even_starts_leave_no_shard_empty(num_items, num_shards):
    starts = even_starts(num_items, num_shards)
    sizes = np.diff(starts)
    assert len(sizes) == num_shards
    assert starts[-1] == num_items
    assert (sizes > 0).all()
    assert sizes.max() - sizes.min() <= 16
    assert all(start % 8 == 0 for start in starts[:-1])


@pytest.mark.parametrize(("num_items", "num_shards"), [(15, 2), (100, 0), (7, 3)])
def test_too_many_shards_are_refused(num_items, num_shards):
    with pytest.raises(ValueError, match="at least 8 items"):
        even_starts(num_items, num_shards)


@every_kind
def test_shards_on_disk_answer_as_the_index_that_was_cut(kind, tmp_path):
    index, rng = catalogue(kind)
    index.remove([0, 77, 199])
    index.save(tmp_path / "index")
    query = rng.standard_normal((3, 12)).astype(np.float32)
    assert save_shards(tmp_path / "index", tmp_path / "shards", 3) == read_shards(tmp_path / "shards")
    found = read_shards(tmp_path / "shards")
    opened = [found.open(shard) for shard in range(3)]
    merged = merge_top_k([part.top_k(query, 9) for part in opened], found.starts, 9)
    whole = load_index(tmp_path / "index", version=found.of).top_k(query, 9)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(merged[:3], whole[:3], strict=True))
    vectors = np.empty((3, 12), np.float32)
    for part, (here, local) in zip(opened, locate(found.starts, np.array([199, 0, 77])), strict=True):
        vectors[here] = part.vectors(local)
    assert vectors.tobytes() == index.vectors([199, 0, 77]).tobytes()


@pytest.mark.parametrize("damage", ["", "{}", '{"of": "", "starts": [0], "versions": []}', "not ascending", "short"])
def test_a_damaged_list_of_shards_is_refused(damage, tmp_path):
    catalogue("pq")[0].save(tmp_path / "index")
    save_shards(tmp_path / "index", tmp_path / "shards", 3)
    path = tmp_path / "shards" / "SHARDS.json"
    content = json.loads(path.read_text())
    damaged = {"not ascending": content | {"starts": [0, 64, 64, 200]}, "short": content | {"starts": [0, 64, 200]}}
    path.write_text(json.dumps(damaged[damage]) if damage in damaged else damage)
    with pytest.raises(ValueError, match=r"SHARDS\.json is damaged; cut the index again"):
        read_shards(tmp_path / "shards")


def test_where_no_shards_are_it_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no shards"):
        read_shards(tmp_path)
