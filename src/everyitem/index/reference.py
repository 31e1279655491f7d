"""Every search in plain NumPy: the oracle of the tests, the baseline of the benchmarks, and the explanation.

Where the C++ core was not built, this module stands in for it (see `core.load_core`). Slow and readable: O(I M) memory
per row. Knows nothing of indexes, files or C++; expects arguments that were checked at the door.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everyitem.index.softmax import capped, log_sum_exp
from everyitem.types import Floats, Ids, TopK

Bits = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Found = tuple[Ids, Floats, Floats, NDArray[np.int64]]
Postings = tuple[NDArray[np.int64], Ids]
Ranked = tuple[NDArray[Any], Floats]

LANES = 16


def cpu() -> str:
    """What `_native.cpu` says of kernels: which ones run."""
    return "numpy"


def score_table(query_UD: Floats, codebooks_MdB: Floats) -> Floats:
    """What every sub-item adds to a score: S[m, b] = <query's part m, codebook vector (m, b)> (RecJPQ, eq. 4).

    The sum runs over the split's elements in order, so the bits do not depend on the batch.

    Args:
        query_UD: float32, D = M d.
        codebooks_MdB: float32, sub-items last.

    Returns:
        (U, M, B) float32.
    """
    num_splits, split_dim, num_sub_items = codebooks_MdB.shape
    query_UMd = query_UD.reshape(-1, num_splits, split_dim)
    table_UMB = np.zeros((len(query_UD), num_splits, num_sub_items), np.float32)
    for t in range(split_dim):
        table_UMB += query_UMd[:, :, t, None] * codebooks_MdB[:, t]
    return table_UMB


def dense_scores(query_UD: Floats, vectors_ID: Floats) -> Floats:
    """Dot products in a fixed order: 16 lanes, lane j adding elements j, j + 16, ...; then halves are folded.

    Returns:
        (U, I) float32, the bits that the C++ core returns on every CPU.
    """
    lanes_UIL = np.zeros((len(query_UD), len(vectors_ID), LANES), np.float32)
    for start in range(0, query_UD.shape[1], LANES):
        part = slice(start, start + LANES)
        products = query_UD[:, None, part] * vectors_ID[None, :, part]
        lanes_UIL[..., : products.shape[-1]] += products
    while lanes_UIL.shape[-1] > 1:
        left, right = np.split(lanes_UIL, 2, axis=-1)
        lanes_UIL = left + right
    return lanes_UIL[..., 0]


def pq_scores(table_UMB: Floats, codes_IM: NDArray[np.uint8]) -> Floats:
    """PQTopK's scores (arXiv:2408.09992): item by item, the sum of its sub-items' scores, float32 in split order.

    Returns:
        (U, I) float32.
    """
    parts_UIM = table_UMB[:, np.arange(codes_IM.shape[1]), codes_IM]
    return np.add.accumulate(parts_UIM, axis=-1)[..., -1]


def recjpq_scoring(table_UMB: Floats, codes_IM: NDArray[np.uint8]) -> Floats:
    """RecJPQ's scores (arXiv:2312.06165): split by split into an accumulator as long as the catalogue.

    The same bits as `pq_scores`, and M passes over memory where PQTopK needs one.
    """
    scores_UI = table_UMB[:, 0, codes_IM[:, 0]]
    for m in range(1, codes_IM.shape[1]):
        scores_UI += table_UMB[:, m, codes_IM[:, m]]
    return scores_UI


def two_level_scores(
    query_UD: Floats,
    vectors_ID: Floats,
    cluster_of_I: Ids,
    clusters_CD: Floats,
    bias_C: Floats,
    cap: float | None = None,
) -> Floats:
    """log p(i | q) = log p(c | q) + log p(i | c, q) for c the item's cluster (arXiv:2509.03746, with its correction).

    p(c | q) is a softmax over the clusters that hold items, of capped(<q, clusters[c]>) + bias[c]; p(i | c, q) one over
    the items of the cluster, of capped(<q, vectors[i]>).

    Returns:
        (U, I) float32, the bits that the C++ core returns on every CPU.
    """
    logits_UI, logits_UC = (capped(dense_scores(query_UD, v), cap) for v in (vectors_ID, clusters_CD))
    sizes_C = np.bincount(cluster_of_I, minlength=len(clusters_CD))
    logits_UC = np.where(sizes_C > 0, logits_UC + bias_C, np.float32(-np.inf))
    cluster_UC = logits_UC - log_sum_exp(logits_UC)[:, None] if len(vectors_ID) else logits_UC
    scores_UI = np.empty_like(logits_UI)
    for c in np.flatnonzero(sizes_C):
        members = np.flatnonzero(cluster_of_I == c)
        inside = logits_UI[:, members] - log_sum_exp(logits_UI[:, members])[:, None]
        scores_UI[:, members] = cluster_UC[:, c, None] + inside
    return scores_UI


def top_k(scores_UI: Floats, k: int, allow: Mask | None = None, exclude: Ids | None = None) -> TopK:
    """The k best eligible items of every row: score descending, then position ascending.

    Args:
        scores_UI: float32, finite.
        k: results per row, 1 <= k; may exceed I.
        allow: (I,) or (U, I) bool; None allows every item.
        exclude: (U, E) positions padded with -1, in any order.
    """
    eligible_UI = eligible(scores_UI.shape, allow, exclude)
    rows = [_best(np.flatnonzero(row), scores_I[row], k) for scores_I, row in zip(scores_UI, eligible_UI, strict=True)]
    return _stacked(rows, k, np.full(len(rows), scores_UI.shape[1], np.int64))


def eligible(shape: tuple[int, ...], allow: Mask | None, exclude: Ids | None) -> Mask:
    """(U, I): the items that a row may return."""
    eligible_UI = np.ones(shape, bool) if allow is None else np.broadcast_to(allow, shape).copy()
    for row, excluded in enumerate([] if exclude is None else exclude):
        eligible_UI[row, excluded[excluded >= 0]] = False
    return eligible_UI


def _best(items: NDArray[Any], scores: Floats, k: int) -> Ranked:
    """The k best of candidates whose positions ascend, so that a stable sort settles ties."""
    if len(items) > k:
        kept = scores >= np.partition(scores, -k)[-k]
        items, scores = items[kept], scores[kept]
    order = np.argsort(-scores, kind="stable")[:k]
    return items[order], scores[order]


def _stacked(rows: list[Ranked], k: int, scored: NDArray[np.int64]) -> TopK:
    items_UK = np.full((len(rows), k), -1, np.int32)
    scores_UK = np.full((len(rows), k), -np.inf, np.float32)
    for row, (items, scores) in enumerate(rows):
        items_UK[row, : len(items)] = items
        scores_UK[row, : len(items)] = scores
    return TopK(items_UK, scores_UK, scores_UK[:, -1].copy(), scored)


def recjpq_prune(
    table_UMB: Floats,
    codes_IM: NDArray[np.uint8],
    k: int,
    *,
    allow: Mask | None = None,
    exclude: Ids | None = None,
    batch_size: int = 8,
) -> TopK:
    """RecJPQPrune (arXiv:2505.00560, Alg. 1): best sub-items first, until nothing unseen can enter the top k.

    An item none of whose sub-items was processed scores at most the sum of every split's best unprocessed sub-item.
    Summed in split order that bound needs no slack: float32 rounding is monotone. Two deviations from the paper: the
    loop goes on at bound = threshold, so ties are kept and the result is `top_k(pq_scores(...))` to the bit; and items
    already found leave a batch before it is cut, never after.

    Args:
        table_UMB: float32, finite.
        codes_IM: uint8.
        k: results per row, 1 <= k.
        allow: (I,) or (U, I) bool.
        exclude: (U, E) positions padded with -1.
        batch_size: sub-items of one split that are processed at a time.

    Returns:
        TopK; `scored` counts every scoring of an eligible item, again where several splits lead to it.
    """
    eligible_UI = eligible((len(table_UMB), len(codes_IM)), allow, exclude)
    found = list(_pruned(table_UMB, codes_IM, k, eligible_UI, batch_size))
    return _stacked([row for row, _, _ in found], k, np.array([scored for _, scored, _ in found], np.int64))


def _pruned(
    table_UMB: Floats, codes_IM: NDArray[np.uint8], k: int, eligible_UI: Mask, batch_size: int
) -> Iterator[tuple[Ranked, int, int]]:
    """Per row: what was found, how many scorings and how many batches of sub-items it took."""
    postings = [_posting_lists(codes_IM[:, m], table_UMB.shape[2]) for m in range(codes_IM.shape[1])]
    for table_MB, eligible_I in zip(table_UMB, eligible_UI, strict=True):
        items: NDArray[Any] = np.empty(0, np.int32)
        scores: Floats = np.empty(0, np.float32)
        scored = steps = 0
        for candidates, bound in _promising(table_MB, postings, batch_size):
            if len(items) == k and bound < scores[-1]:
                break
            candidates = candidates[eligible_I[candidates]]
            scored, steps = scored + len(candidates), steps + 1
            items = np.union1d(items, candidates)  # ascending, without duplicates
            items, scores = _best(items, pq_scores(table_MB[None], codes_IM[items])[0], k)
        yield (items, scores), scored, steps


def _promising(table_MB: Floats, postings: list[Postings], batch_size: int) -> Iterator[tuple[Ids, float]]:
    """(items behind the next batch of sub-items, bound on every item not yet yielded), until all items were yielded."""
    order_MB = np.argsort(-table_MB, axis=1, kind="stable")
    sorted_MB = np.pad(np.take_along_axis(table_MB, order_MB, 1), ((0, 0), (0, 1)), constant_values=-np.inf)
    done_M = np.zeros(len(table_MB), np.int64)
    while True:
        heads_M = sorted_MB[np.arange(len(done_M)), done_M]
        if np.isneginf(heads_M).any():
            return
        split = heads_M.argmax()
        batch = order_MB[split, done_M[split] : done_M[split] + batch_size]
        starts, items = postings[split]
        yield np.concatenate([items[starts[b] : starts[b + 1]] for b in batch]), np.add.accumulate(heads_M)[-1]
        done_M[split] += len(batch)


def _posting_lists(codes_I: NDArray[np.uint8], num_sub_items: int) -> Postings:
    """CSR: items[starts[b]:starts[b + 1]] are the items with sub-item b, ascending."""
    starts = np.concatenate([[0], np.cumsum(np.bincount(codes_I, minlength=num_sub_items))])
    return starts, np.argsort(codes_I, kind="stable").astype(np.int32)


class PQCatalogue:
    """The twin of `_native.PQCatalogue`: every algorithm gives the same answer, so one that scores everything will do.

    The clock is read once per row.
    """

    def __init__(self, codebooks_MdB: Floats, parts: list[tuple[Any, ...]], whole_level: int, recode_MB: Any) -> None:
        self._codebooks_MdB = codebooks_MdB
        self._codes_IM = np.concatenate([codes_IM for codes_IM, *_ in parts])

    def top_k(
        self,
        asked: Floats,
        k: int,
        allow: Bits | None,
        slots: None,
        exclude: Ids | None,
        removed: Bits | None,
        seconds: float,
        threads: int,
        algorithm: str,
        gap_factor: float,
        batch_size: int,
    ) -> Found:
        """Queries (U, D) or score tables (U, M, B); packed bits. The other arguments change nothing here."""

        def scores(one: Floats) -> Floats:
            return pq_scores(self._table(one), self._codes_IM)

        found = _searched(asked, scores, len(self._codes_IM), k, (allow, exclude, removed), seconds)
        stopped = found[3] < len(self._codes_IM)
        found[2][stopped] = np.add.accumulate(self._table(asked).max(axis=2), axis=1)[stopped, -1]
        return found

    def compile(self, allow: Bits) -> None:
        """Nothing: the twin asks the bits themselves."""

    def predict(
        self, asked: Floats, k: int, allow: Bits | None, slots: None, removed: Bits | None, threads: int
    ) -> NDArray[np.int64]:
        """(U,) items that a search looks at: all."""
        return np.full(len(asked), len(self._codes_IM))

    def steps(self, asked: Floats, k: int, batch_size: int, threads: int) -> NDArray[np.int64]:
        """(U,) batches of sub-items that RecJPQPrune processes."""
        table_UMB = self._table(asked)
        everything = np.ones((len(table_UMB), len(self._codes_IM)), bool)
        return np.array(
            [steps for *_, steps in _pruned(table_UMB, self._codes_IM, k, everything, batch_size)], np.int64
        )

    def _table(self, asked: Floats) -> Floats:
        return asked if asked.ndim == 3 else score_table(asked, self._codebooks_MdB)


def to_blocks(codes_IM: NDArray[np.uint8], positions_I: Ids | None, recode_MB: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(ceil(I / 64), M, 64): rows of codes in blocks of 64 slots, split by split, the last item repeated at the end."""
    slots = np.minimum(np.arange(-(-len(codes_IM) // 64) * 64), len(codes_IM) - 1)
    rows_SM = codes_IM[slots if positions_I is None else positions_I[slots]]
    rows_SM = recode_MB[np.arange(codes_IM.shape[1]), rows_SM]
    return np.ascontiguousarray(rows_SM.reshape(-1, 64, codes_IM.shape[1]).transpose(0, 2, 1))


def order(codes_IM: NDArray[np.uint8], tables_MBS: Floats, recode_MB: NDArray[np.uint8], threads: int) -> Ids:
    """Positions slot by slot, items with the same first codes together: without bounds any order does."""
    return np.lexsort(codes_IM.T[::-1]).astype(np.int32)


def levels(blocks: NDArray[np.uint8], num_items: int, tables_MBS: Floats, top_nodes: int, threads: int) -> list[Any]:
    """None: the twin scores every item."""
    return []


def dense_top_k(
    query_UD: Floats,
    vectors_ID: Floats,
    k: int,
    allow: Bits | None,
    exclude: Ids | None,
    removed: Bits | None,
    seconds: float,
    threads: int,
) -> Found:
    """The twin of `_native.dense_top_k`, packed bits, and a clock that is read once per row; `threads` is not used."""

    def scores(query: Floats) -> Floats:
        return dense_scores(query, vectors_ID)

    return _searched(query_UD, scores, len(vectors_ID), k, (allow, exclude, removed), seconds)


class TwoLevelCatalogue:
    """The twin of `_native.TwoLevelCatalogue`: scores every item. `positions_I` names the rows, cluster by cluster.

    The clock is read once per row.
    """

    def __init__(
        self, vectors_ID: Floats, positions_I: Ids, starts_C: NDArray[np.int64], clusters_CD: Floats, *rest: Any
    ) -> None:
        self._positions_I, (bias_C, cap) = positions_I, rest
        cluster_of_I = np.repeat(np.arange(len(clusters_CD), dtype=np.int32), np.diff(starts_C))
        self._model = (vectors_ID, cluster_of_I, clusters_CD, bias_C, cap)

    def top_k(
        self,
        query_UD: Floats,
        k: int,
        allow: Bits | None,
        exclude: Ids | None,
        removed: Bits | None,
        seconds: float,
        threads: int,
    ) -> Found:
        """Packed bits; `threads` is not used."""
        num_items = len(self._positions_I)

        def scores(query: Floats) -> Floats:
            out = np.empty((1, num_items), np.float32)
            out[:, self._positions_I] = two_level_scores(query, *self._model)
            return out

        found = _searched(query_UD, scores, num_items, k, (allow, exclude, removed), seconds)
        found[2][found[3] < num_items] = 0  # the logarithm of a probability
        return found

    def scores(self, query_UD: Floats, rows_UN: NDArray[np.int64]) -> Floats:
        """(U, N) scores of the items in these rows."""
        return np.take_along_axis(two_level_scores(query_UD, *self._model), rows_UN, axis=1)


def _searched(
    query_UD: Floats,
    scores: Callable[[Floats], Floats],
    num_items: int,
    k: int,
    filters: tuple[Bits | None, Ids | None, Bits | None],
    seconds: float,
) -> Found:
    start = time.monotonic()
    allow, exclude, removed = filters
    rows = []
    for row in range(len(query_UD)):
        if time.monotonic() - start >= seconds:
            rows.append(top_k(np.empty((1, 0), np.float32), k))
            continue
        mask = np.ones(num_items, bool) if removed is None else ~_unpacked(removed, num_items)
        if allow is not None:
            mask &= _unpacked(allow[row if len(allow) > 1 else 0], num_items)
        rows.append(top_k(scores(query_UD[row, None]), k, mask, None if exclude is None else exclude[row, None]))
    if not rows:
        return np.empty((0, k), np.int32), np.empty((0, k), np.float32), np.empty(0, np.float32), np.empty(0, np.int64)
    items, scores_UK, bound, scored = (np.concatenate(column) for column in zip(*rows, strict=True))
    return items, scores_UK, bound, scored


def _unpacked(bits: Bits, num_items: int) -> Mask:
    return np.unpackbits(bits, count=num_items, bitorder="little").astype(bool)
