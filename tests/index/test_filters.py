"""Filters that many searches share: compiled once, they change no answer, and they follow the index as it changes."""

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from everyitem.index import PQIndex, arrangement, reference
from everyitem.index.core import load_core
from everyitem.index.pq import ALGORITHMS

CORE: Any = load_core()
ITEMS, SPLITS = 40_000, 4
RNG = np.random.default_rng(5)
CODES = (RNG.integers(0, 8, (ITEMS, 1)) * 32 + RNG.integers(0, 32, (ITEMS, SPLITS))).astype(np.uint8)
CODEBOOKS = np.sin(np.arange(256)[None, :, None] / 50 + RNG.random((SPLITS, 1, 3)) * 6).astype(np.float32)
QUERY = RNG.standard_normal((5, SPLITS * 3)).astype(np.float32)
SCATTERED = {share: RNG.random(ITEMS) < share for share in (0.0, 0.0001, 0.01, 0.05, 0.5, 0.999, 1.0)}
TOGETHER = {"a code": CODES[:, 0] < 9, "one item": np.arange(ITEMS) == 17}
FILTERS = {str(name): mask for name, mask in (SCATTERED | TOGETHER).items()}


@pytest.fixture(scope="module")
def index() -> PQIndex:
    index = PQIndex(CODES, CODEBOOKS)
    with patch.multiple(arrangement, PRUNED_FROM=0, TOP_NODES=2):
        index.compact()
    return index


def wanted(mask: Any, k: int, codes: Any = CODES) -> Any:
    codebooks_MdB = np.ascontiguousarray(CODEBOOKS.transpose(0, 2, 1))
    scores = reference.pq_scores(reference.score_table(QUERY, codebooks_MdB), codes)
    return reference.top_k(scores, k, mask)


def same(one: Any, other: Any) -> bool:
    return all(getattr(one, name).tobytes() == getattr(other, name).tobytes() for name in ("items", "scores", "bound"))


@pytest.mark.parametrize("mask", FILTERS.values(), ids=FILTERS)
@pytest.mark.parametrize("k", [1, 10, 700])
def test_a_compiled_filter_gives_the_answer_of_its_bits(index: PQIndex, mask: Any, k: int) -> None:
    compiled, right = index.compile_filter(mask), wanted(mask, k)
    for algorithm in (None, *ALGORITHMS):
        assert same(index.top_k(QUERY, k, allow=compiled, algorithm=algorithm), right), algorithm
        assert same(index.top_k(QUERY, k, allow=mask, algorithm=algorithm), right), algorithm


def test_a_compiled_filter_follows_its_index() -> None:
    index, mask = PQIndex(CODES, CODEBOOKS), FILTERS["0.5"]
    compiled = index.compile_filter(np.packbits(mask, bitorder="little"))
    new = CODES[:100][::-1]
    index.add(codes=new)
    longer = np.concatenate([mask, np.zeros(100, bool)])  # what came later is not allowed
    both = np.concatenate([CODES, new])
    assert same(index.top_k(QUERY, 50, allow=compiled), wanted(longer, 50, both))
    best = index.top_k(QUERY, 1, allow=compiled).items[:, 0]
    index.remove(best)
    longer[best] = False
    assert same(index.top_k(QUERY, 50, allow=compiled), wanted(longer, 50, both))
    with patch.multiple(arrangement, PRUNED_FROM=0):
        index.compact()
    assert same(index.top_k(QUERY, 50, allow=compiled), wanted(longer, 50, both))


def test_a_filter_of_another_index_is_refused(index: PQIndex) -> None:
    small = PQIndex(CODES[:100], CODEBOOKS)
    with pytest.raises(ValueError, match="compiled for 40000 items, but this index has 100"):
        small.top_k(QUERY, 1, allow=index.compile_filter(FILTERS["0.5"]))
    with pytest.raises(ValueError, match="None"):
        index.compile_filter(None)
    with pytest.raises(ValueError, match="shape"):
        index.compile_filter(FILTERS["0.5"][:-1])
    assert repr(small.compile_filter(np.arange(100) < 7)) == "CompiledFilter(7 of 100 items)"


@pytest.mark.skipif(CORE is reference, reason="this installation has no C++ core")
def test_blocks_without_an_allowed_item_are_not_looked_into(index: PQIndex) -> None:
    everything = index.predict_cost(QUERY, 700).items
    few = index.predict_cost(QUERY, 700, allow=index.compile_filter(FILTERS["a code"])).items
    assert (few < everything / 4).all()
