"""Exact top-K where some items have scores of their own: against scoring everything."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everyitem.index import DenseIndex, PQIndex, raised, reference
from everyitem.types import TopK

ITEMS = 60


def an_index(kind: str, rng: np.random.Generator) -> Any:
    codebooks = rng.integers(-2, 3, (3, 5, 2)).astype(np.float32)  # few values: many ties
    codes = rng.integers(0, 5, (ITEMS, 3), dtype=np.uint8)
    pq = PQIndex(codes, codebooks)
    return pq if kind == "pq" else DenseIndex(pq.vectors(np.arange(ITEMS)))


def by_hand(index: Any, query: Any, k: int, own: tuple[Any, Any, Any], allow: Any, exclude: Any, gone: Any) -> TopK:
    everything = np.tile(np.arange(ITEMS), (len(query), 1))
    scores = index.scores(query, everything)
    live = np.ones(ITEMS, bool)
    live[gone] = False
    for row, (items, bonus, slope) in enumerate(zip(*own, strict=True)):
        real = items >= 0
        plain = scores[row].copy()
        others = live.copy()
        others[items[real]] = False
        behind = plain[items] - (plain[others].max() if others.any() else plain[items])
        scores[row, items[real]] = (plain[items] + (bonus + slope * behind))[real]
    allowed = live if allow is None else live & allow
    return reference.top_k(scores, k, allowed, exclude)


@pytest.mark.parametrize("kind", ["pq", "dense"])
@settings(deadline=None, max_examples=200)
@given(
    seed=st.integers(0, 2**32 - 1),
    k=st.integers(1, ITEMS + 3),
    share=st.sampled_from([None, 0.0, 0.1, 0.9]),
    num_raised=st.sampled_from([0, 1, 7, ITEMS]),
    num_excluded=st.sampled_from([None, 0, 4]),
    num_gone=st.sampled_from([0, 5]),
)
def test_equals_scoring_everything(
    kind: str, seed: int, k: int, share: Any, num_raised: int, num_excluded: Any, num_gone: int
) -> None:
    rng = np.random.default_rng(seed)
    index, query = an_index(kind, rng), rng.integers(-2, 3, (3, 6)).astype(np.float32)
    items = np.stack([np.sort(rng.permutation(ITEMS)[:num_raised]) for _ in query]).astype(np.int32)
    items[rng.random(items.shape) < 0.2] = -1
    own = (
        items,
        rng.integers(-1, 4, items.shape).astype(np.float32) * (items >= 0),
        rng.choice([0, 0.5, -1], items.shape).astype(np.float32) * (items >= 0),
    )
    allow = None if share is None else rng.random(ITEMS) < share
    exclude = None if num_excluded is None else rng.integers(-1, ITEMS, (3, num_excluded)).astype(np.int32)
    gone = rng.permutation(ITEMS)[:num_gone]
    index.remove(gone)
    wanted = by_hand(index, query, k, own, allow, exclude, gone)
    found = raised.top_k(index, query, k, *own, allow=allow, exclude=exclude)
    assert found.items.tobytes() == wanted.items.tobytes()
    assert found.scores.tobytes() == wanted.scores.tobytes()
    assert found.bound.tobytes() == wanted.bound.tobytes()
    for row in range(len(query)):
        alone = raised.top_k(
            index,
            query[row, None],
            k,
            *(array[row, None] for array in own),
            allow=allow,
            exclude=None if exclude is None else exclude[row, None],
        )
        assert alone.items.tobytes() == found.items[row].tobytes()
        assert alone.scores.tobytes() == found.scores[row].tobytes()


def test_a_deadline_leaves_a_true_bound() -> None:
    rng = np.random.default_rng(0)
    index, query = an_index("pq", rng), rng.integers(-2, 3, (2, 6)).astype(np.float32)
    own = (np.array([[3], [4]], np.int32), np.full((2, 1), 5, np.float32), np.zeros((2, 1), np.float32))
    stopped = raised.top_k(index, query, 5, *own, deadline=0)
    everything = raised.top_k(index, query, ITEMS, *own)
    for row in range(2):
        outside = ~np.isin(everything.items[row], stopped.items[row])
        assert everything.scores[row, outside].max() <= stopped.bound[row]
