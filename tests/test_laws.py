"""The laws that every index obeys, on every CPU kernel: ids and score bits, never a tolerance.

A further index is one more line in KINDS: how to build it, what NumPy says its scores are, what `add` takes.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from drawn import Catalogue, catalogues, shares, some_filters
from hypothesis import example, given, settings
from hypothesis import strategies as st

from everyitem.index import DenseIndex, PQIndex, TwoLevelIndex, arrangement, load_index, reference
from everyitem.index.core import load_core
from everyitem.index.pq import ALGORITHMS
from everyitem.index.shards import cut_filters, locate, merge_top_k
from everyitem.types import TopK

CORE: Any = load_core()
CPUS = [] if CORE is reference else CORE.cpus()


def pq_oracle(catalogue: Catalogue, query: Any) -> Any:
    codebooks = np.ascontiguousarray(catalogue.codebooks.transpose(0, 2, 1))
    return reference.pq_scores(reference.score_table(query, codebooks), catalogue.codes)


def pq_rows(catalogue: Catalogue) -> dict[str, Any]:
    return {"codes": catalogue.codes}


def pruned(catalogue: Catalogue, codes: Any) -> PQIndex:
    """As if the catalogue were large: levels of nodes above its few blocks, and searches that come down from above."""
    with patch.multiple(arrangement, PRUNED_FROM=0, TOP_NODES=2, WHOLE_LEVEL=1):
        index = PQIndex(codes, catalogue.codebooks)
        index.compact(catalogue.query if catalogue.seed % 2 else None, threads=1 + catalogue.seed % 3)
    return index


@dataclass(frozen=True)
class Kind:
    make: Callable[[Catalogue, Any], Any]  # from some of the rows
    oracle: Callable[[Catalogue], Any]  # (U, I) scores
    rows: Callable[[Catalogue], dict[str, Any]]  # what `add` takes

    def build(self, catalogue: Catalogue) -> Any:
        return self.make(catalogue, *self.rows(catalogue).values())


def two_level(cap: float | None) -> Kind:
    return Kind(
        lambda c, vectors, of: TwoLevelIndex(vectors, of, c.clustering[1], bias_C=c.clustering[2], logit_cap=cap),
        lambda c: reference.two_level_scores(c.query, c.vectors, *c.clustering, cap),
        lambda c: {"vectors": c.vectors, "clusters": c.clustering[0]},
    )


KINDS = {
    "pq": Kind(lambda c, codes: PQIndex(codes, c.codebooks), lambda c: pq_oracle(c, c.query), pq_rows),
    "pruned pq": Kind(pruned, lambda c: pq_oracle(c, c.query), pq_rows),
    "rotated pq": Kind(
        lambda c, codes: PQIndex(codes, c.codebooks, rotation_DD=c.rotation),
        lambda c: pq_oracle(c, reference.dense_scores(c.query, c.rotation)),
        pq_rows,
    ),
    "dense": Kind(
        lambda c, vectors: DenseIndex(vectors),
        lambda c: reference.dense_scores(c.query, c.vectors),
        lambda c: {"vectors": c.vectors},
    ),
    "two-level": two_level(None),
    "capped two-level": two_level(2.5),
}

every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
# a probability is one among all items, so a part of a two-level catalogue has other scores
additive = {name: kind for name, kind in KINDS.items() if "two-level" not in name}
every_additive_kind = pytest.mark.parametrize("kind", additive.values(), ids=additive)
law = settings(deadline=None, max_examples=100)


def same(one: TopK, other: TopK) -> bool:
    """Ids, score bits and bounds."""
    return all(getattr(one, name).tobytes() == getattr(other, name).tobytes() for name in ("items", "scores", "bound"))


def on_every_cpu() -> Iterator[str]:
    """Run the loop's body once per kernel; the best one stays chosen."""
    yield "as chosen"
    for cpu in CPUS:
        CORE.use_cpu(cpu)
        yield cpu


@every_kind
@settings(law, max_examples=300)
@given(catalogue=catalogues, share=shares, per_row=st.booleans(), data=st.data())
def test_equals_the_reference_on_every_cpu(
    kind: Kind, catalogue: Catalogue, share: float, per_row: bool, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, catalogue.num_items + 5), label="k")
    allow, exclude = some_filters(catalogue, share, per_row)
    index, query = kind.build(catalogue), catalogue.query
    wanted = reference.top_k(kind.oracle(catalogue), k, allow, exclude)
    for cpu in on_every_cpu():
        for threads in (1, 2, 3):
            assert same(index.top_k(query, k, allow=allow, exclude=exclude, threads=threads), wanted), (cpu, threads)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@settings(law, max_examples=300)
@given(catalogue=catalogues, share=shares, per_row=st.booleans(), data=st.data())
def test_every_algorithm_gives_the_same_bits_on_every_cpu(
    algorithm: str, catalogue: Catalogue, share: float, per_row: bool, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, catalogue.num_items + 5), label="k")
    allow, exclude = some_filters(catalogue, share, per_row)
    index, query = pruned(catalogue, catalogue.codes), catalogue.query
    scores = pq_oracle(catalogue, query)
    wanted, hidden = reference.top_k(scores, k), reference.top_k(scores, k, allow, exclude)
    for cpu in on_every_cpu():
        assert same(index.top_k(query, k, algorithm=algorithm), wanted), cpu
        assert same(index.top_k(query, k, algorithm=algorithm, allow=allow, exclude=exclude), hidden), cpu


@every_kind
@law
@given(catalogue=catalogues, share=shares, per_row=st.booleans(), k=st.integers(1, 40))
def test_filters_hide_items_and_change_nothing_else(
    kind: Kind, catalogue: Catalogue, share: float, per_row: bool, k: int
) -> None:
    allow, exclude = some_filters(catalogue, share, per_row)
    index, query = kind.build(catalogue), catalogue.query
    everything = index.top_k(query, catalogue.num_items)
    found = index.top_k(query, k, allow=allow, exclude=exclude)
    assert same(found, index.top_k(query, k, allow=np.packbits(allow, axis=-1, bitorder="little"), exclude=exclude))
    eligible = reference.eligible((catalogue.num_rows, catalogue.num_items), allow, exclude)
    for row, items in enumerate(everything.items):
        left = items[eligible[row, items]][:k]
        assert found.items[row].tolist() == left.tolist() + [-1] * (k - len(left))
        assert found.scores[row, : len(left)].tobytes() == index.scores(query[row, None], left[None]).tobytes()
        assert np.isneginf(found.scores[row, len(left) :]).all()


@every_kind
@law
@given(catalogue=catalogues)
def test_order_prefix_and_certificate(kind: Kind, catalogue: Catalogue) -> None:
    index, query = kind.build(catalogue), catalogue.query
    longest = index.top_k(query, catalogue.num_items + 1)
    ranks = [list(zip(-s, i, strict=True)) for s, i in zip(longest.scores[:, :-1], longest.items[:, :-1], strict=True)]
    assert all(row == sorted(row) for row in ranks)
    assert (longest.items[:, -1] == -1).all()
    assert np.isneginf(longest.bound).all()
    for k in range(1, catalogue.num_items + 1, 1 + catalogue.num_items // 5):
        found = index.top_k(query, k)
        assert found.items.tobytes() == longest.items[:, :k].tobytes()
        assert found.scores.tobytes() == longest.scores[:, :k].tobytes()
        assert (found.bound == found.scores[:, -1]).all()
        assert (found.bound >= longest.scores[:, k]).all()


@every_kind
@law
@given(catalogue=catalogues, k=st.integers(1, 20))
def test_rows_do_not_depend_on_their_batch(kind: Kind, catalogue: Catalogue, k: int) -> None:
    index, query = kind.build(catalogue), np.tile(catalogue.query, (6, 1))
    batch = index.top_k(query, k, threads=2)
    for row in range(len(query)):
        alone = index.top_k(query[row, None], k)
        assert same(alone, TopK(*(part[row, None] for part in batch)))


@every_additive_kind
@settings(law, max_examples=40)
@given(catalogue=catalogues, share=shares, per_row=st.booleans(), data=st.data())
def test_shards_merged_are_the_whole(
    kind: Kind, catalogue: Catalogue, share: float, per_row: bool, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, catalogue.num_items + 5), label="k")
    cuts = data.draw(st.sets(st.integers(1, 40).map(lambda n: 8 * n), max_size=6), label="cuts")
    starts = [0, *sorted(cut for cut in cuts if cut < catalogue.num_items), catalogue.num_items]
    gone = data.draw(st.sets(st.integers(0, catalogue.num_items - 1), max_size=5), label="gone")
    allow, exclude = some_filters(catalogue, share, per_row)
    index, query = kind.build(catalogue), catalogue.query
    index.remove(sorted(gone))
    pieces = [kind.make(catalogue, *(rows[a:b] for rows in kind.rows(catalogue).values())) for a, b in pairwise(starts)]
    for piece, (_, inside) in zip(pieces, locate(starts, np.array(sorted(gone), np.int64)), strict=True):
        piece.remove(inside)
    filters = list(cut_filters(starts, len(query), allow, exclude))
    parts = [piece.top_k(query, k, allow=a, exclude=e) for piece, (a, e) in zip(pieces, filters, strict=True)]
    assert same(merge_top_k(parts, starts, k), index.top_k(query, k, allow=allow, exclude=exclude))
    parts = [piece.top_k(query, k) for piece in pieces]
    whole = index.top_k(query, k)
    assert same(merge_top_k(parts, starts, k), whole)
    if len(parts) > 1:
        rest = [start - starts[1] for start in starts[1:]]
        halves = merge_top_k(parts[:1], starts[:2], k), merge_top_k(parts[1:], rest, k)
        assert same(merge_top_k(halves, [0, starts[1], starts[-1]], k), whole)


@every_kind
@law
@given(catalogue=catalogues, data=st.data())
def test_add_and_remove_equal_building_anew(kind: Kind, catalogue: Catalogue, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, catalogue.num_items), label="start")
    gone = data.draw(st.lists(st.integers(0, catalogue.num_items - 1), max_size=20), label="gone")
    rows, query, k = kind.rows(catalogue), catalogue.query, 10
    whole = kind.build(catalogue)
    grown = kind.make(catalogue, *(values[:start] for values in rows.values()))
    early = [item for item in gone if item < start]
    grown.remove(early)
    added = grown.add(**{name: values[start:] for name, values in rows.items()})
    assert added.tolist() == list(range(start, catalogue.num_items))
    assert same(
        grown.top_k(query, k, exclude=None), reference.top_k(kind.oracle(catalogue), k, unmarked(catalogue, early))
    )
    grown.remove(gone)
    grown.remove(gone)
    whole.remove(gone)
    wanted = reference.top_k(kind.oracle(catalogue), k, unmarked(catalogue, gone))
    assert same(grown.top_k(query, k), wanted)
    assert same(whole.top_k(query, k), wanted)
    assert grown.num_items == catalogue.num_items
    assert np.flatnonzero(grown.removed_I).tolist() == sorted(set(gone))


def unmarked(catalogue: Catalogue, gone: list[int]) -> Any:
    kept = np.ones(catalogue.num_items, bool)
    kept[gone] = False
    return kept


@every_kind
@settings(law, max_examples=25)
@given(catalogue=catalogues, gone=st.booleans())
def test_save_and_load_give_the_same_bits(kind: Kind, catalogue: Catalogue, gone: bool) -> None:
    index = kind.build(catalogue)
    index.remove([0] if gone else [])
    with tempfile.TemporaryDirectory() as folder:
        index.save(folder)
        loaded = load_index(folder)
        assert same(loaded.top_k(catalogue.query, 10), index.top_k(catalogue.query, 10))
        assert loaded.num_items == index.num_items
        everything = np.arange(index.num_items)
        assert loaded.vectors(everything).tobytes() == index.vectors(everything).tobytes()


@every_kind
@law
@given(catalogue=catalogues)
def test_a_deadline_leaves_a_true_bound(kind: Kind, catalogue: Catalogue) -> None:
    index, query = kind.build(catalogue), catalogue.query
    stopped = index.top_k(query, 3, deadline=0)
    assert (stopped.scored == 0).all()
    assert (stopped.items == -1).all()
    assert (stopped.bound >= kind.oracle(catalogue).max(axis=1)).all()
    assert same(index.top_k(query, 3, deadline=3600), index.top_k(query, 3))


@every_kind
def test_a_catalogue_of_many_chunks(kind: Kind) -> None:
    catalogue = Catalogue(7, 70_001, 4, 8, 2, 2, "few values", False)
    index, scores = kind.build(catalogue), kind.oracle(catalogue)
    for cpu in on_every_cpu():
        for k in (1, 1000):
            assert same(index.top_k(catalogue.query, k, threads=2), reference.top_k(scores, k)), (cpu, k)
    borders = np.flatnonzero((np.arange(70_001) + 2) % 4096 < 4)
    allow = np.isin(np.arange(70_001), borders)
    assert same(index.top_k(catalogue.query, 100, allow=allow), reference.top_k(scores, 100, allow))
    assert np.isin(index.top_k(catalogue.query, 100, allow=allow).items, [*borders, -1]).all()


@every_kind
def test_a_deadline_in_mid_search(kind: Kind) -> None:
    catalogue = Catalogue(7, 200_000, 16, 256, 4, 1, "normal", False)
    index = kind.build(catalogue)
    everything = index.top_k(catalogue.query, index.num_items)
    for deadline in (1e-6, 1e-5, 1e-4, 3e-4, 1e-3, 3e-3):
        found = index.top_k(catalogue.query, 5, deadline=deadline, threads=1)
        outside = everything.scores[0, ~np.isin(everything.items[0], found.items[0])]
        assert (outside <= found.bound[0]).all()
        returned = found.items[found.items >= 0]
        assert index.scores(catalogue.query, returned[None]).tobytes() == found.scores[found.items >= 0].tobytes()


@law
@given(catalogue=catalogues, k=st.integers(1, 30), batch_size=st.sampled_from([1, 3, 8]), share=shares)
@example(Catalogue(1, 300, 8, 16, 4, 4, "normal", True), 10, 1, 1.0)
def test_pruning_finds_what_scoring_everything_finds(
    catalogue: Catalogue, k: int, batch_size: int, share: float
) -> None:
    allow, exclude = some_filters(catalogue, share, per_row=True)
    table = PQIndex(catalogue.codes, catalogue.codebooks).score_table(catalogue.query)
    scores = reference.pq_scores(table, catalogue.codes)
    assert scores.tobytes() == reference.recjpq_scoring(table, catalogue.codes).tobytes()
    found = reference.recjpq_prune(table, catalogue.codes, k, allow=allow, exclude=exclude, batch_size=batch_size)
    assert same(found, reference.top_k(scores, k, allow, exclude))


@pytest.mark.parametrize("flavour", ["normal", "heavy tails"])
def test_pruning_survives_correlated_codes(flavour: str) -> None:
    for seed in range(60):
        catalogue = Catalogue(seed, 3000, 8, 64, 4, 1, flavour, True)
        table = PQIndex(catalogue.codes, catalogue.codebooks).score_table(catalogue.query)
        found = reference.recjpq_prune(table, catalogue.codes, 10, batch_size=1)
        assert same(found, reference.top_k(reference.pq_scores(table, catalogue.codes), 10))


def test_pruning_prunes_where_few_sub_items_matter() -> None:
    catalogue = Catalogue(0, 3000, 8, 64, 4, 5, "one-hot split", False)
    table = PQIndex(catalogue.codes, catalogue.codebooks).score_table(catalogue.query)
    assert (reference.recjpq_prune(table, catalogue.codes, 10, batch_size=1).scored < 300).all()


@law
@given(catalogue=catalogues)
def test_tables_have_the_same_bits_on_every_cpu_and_nearly_those_of_float64(catalogue: Catalogue) -> None:
    index, query = PQIndex(catalogue.codes, catalogue.codebooks), catalogue.query
    transposed = np.ascontiguousarray(catalogue.codebooks.transpose(0, 2, 1))
    wanted = reference.score_table(query, transposed)
    for cpu in on_every_cpu():
        assert index.score_table(query).tobytes() == wanted.tobytes(), cpu
    parts = query.reshape(len(query), catalogue.num_splits, -1).astype(np.float64)
    size = np.einsum("umd,mbd->umb", abs(parts), abs(catalogue.codebooks.astype(np.float64)))
    exact = np.einsum("umd,mbd->umb", parts, catalogue.codebooks.astype(np.float64))
    assert (abs(wanted - exact) <= 1e-6 * size + 1e-44).all()
