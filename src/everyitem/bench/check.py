"""Is the answer right? Every way to search is held against the NumPy twin before its time counts."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everyitem.bench.methods import Found, Method
from everyitem.index import PQIndex, reference
from everyitem.types import Floats, TopK

CHUNK_ITEMS = 1 << 21
ROUNDING = 2e-5
"""What an exact peer's score may be off by, of the sum of every split's largest magnitude: float32 in another order."""

CHECKED_SCORES = 3e7


class WrongAnswer(RuntimeError):
    """A way to search returned something else than it promises."""


def check(index: PQIndex, methods: Iterable[Method], queries_UD: Floats, k: int, threads: int = 1) -> None:
    """Stop unless every method keeps its promise on these queries, asked together and one by one.

    "bits": ids and score bits of the twin. "exact": scores within rounding, and every id has the score it is listed
    with, so that ids may differ by ties only. "approximate": no id twice; `recall` says how good it is.

    Raises:
        WrongAnswer: which method differs, and where first.
    """
    wanted = twin(index, queries_UD, k)
    slack_U = ROUNDING * np.abs(index.score_table(queries_UD)).max(axis=2).sum(axis=1)
    for method in methods:
        _compare(index, method, method.search(queries_UD, k, threads), queries_UD, wanted, slack_U)
        alone = [method.search(query[None], k, threads) for query in queries_UD]
        joined = Found(np.concatenate([found.items for found in alone]), np.concatenate([f.scores for f in alone]))
        _compare(index, method, joined, queries_UD, wanted, slack_U)


def num_checked(index: PQIndex) -> int:
    """Queries worth a check: ten, fewer on catalogues so large that the twin would take minutes."""
    return int(np.clip(CHECKED_SCORES / max(1, index.num_items), 1, 10))


def twin(index: PQIndex, queries_UD: Floats, k: int) -> TopK:
    """The exact answer, from NumPy alone, a part of the catalogue at a time.

    Cost: about 60 ns per item and query at M = 8.
    """
    codes_IM, allowed_I = index.codes_IM, ~index.removed_I
    rows = []
    for table_MB in index.score_table(queries_UD):
        items, scores = np.empty(0, np.int32), np.empty(0, np.float32)
        for start in range(0, len(codes_IM), CHUNK_ITEMS):
            chunk = slice(start, start + CHUNK_ITEMS)
            best = reference.top_k(reference.pq_scores(table_MB[None], codes_IM[chunk]), k, allowed_I[chunk])
            real = best.items[0] >= 0
            items = np.concatenate([items, best.items[0][real] + np.int32(start)])
            scores = np.concatenate([scores, best.scores[0][real]])
            order = np.argsort(-scores, kind="stable")[:k]  # chunks ascend, so ties stay in the order of positions
            items, scores = items[order], scores[order]
        missing = k - len(items)
        rows.append(
            (np.pad(items, (0, missing), constant_values=-1), np.pad(scores, (0, missing), constant_values=-np.inf))
        )
    items_UK, scores_UK = (np.stack(column) for column in zip(*rows, strict=True))
    return TopK(items_UK, scores_UK, scores_UK[:, -1], np.full(len(rows), len(codes_IM), np.int64))


def recall(index: PQIndex, found: Found, queries_UD: Floats, wanted: TopK) -> float:
    """The share of the k best that was found; an item that ties with the k-th counts as one of them."""
    items_UK = np.asarray(found.items)
    real_UK = items_UK >= 0
    scores_UK = index.scores(queries_UD, np.where(real_UK, items_UK, 0).astype(np.int32))
    return float(((scores_UK >= wanted.scores[:, -1:]) & real_UK).sum() / (wanted.items >= 0).sum())


def _compare(index: PQIndex, method: Method, found: Found, queries_UD: Floats, wanted: TopK, slack_U: Floats) -> None:
    items_UK = np.asarray(found.items)
    if method.promise == "bits":
        same = (items_UK == wanted.items) & (np.asarray(found.scores) == wanted.scores)
        _require(same, method, "ids or score bits differ from the twin", items_UK, wanted)
        return
    distinct_U = np.array([len(np.unique(row[row >= 0])) == (row >= 0).sum() for row in items_UK])
    _require(np.broadcast_to(distinct_U[:, None], items_UK.shape), method, "returned an item twice", items_UK, wanted)
    if method.promise == "approximate":
        return
    real_UK = wanted.items >= 0
    listed = np.where(real_UK, found.scores, 0.0)
    due = np.where(real_UK, wanted.scores, 0.0)
    own = np.where(real_UK, index.scores(queries_UD, np.maximum(items_UK, 0).astype(np.int32)), 0.0)
    _require((items_UK >= 0) == real_UK, method, "returned too few items, or too many", items_UK, wanted)
    _require(np.abs(listed - due) <= slack_U[:, None], method, "scores differ", items_UK, wanted)
    _require(
        np.abs(own - due) <= slack_U[:, None],
        method,
        "an item has another score than the one it is listed with",
        items_UK,
        wanted,
    )


def _require(good_UK: NDArray[np.bool_], method: Method, complaint: str, items_UK: NDArray[Any], wanted: TopK) -> None:
    if not good_UK.all():
        row = int(np.flatnonzero(~good_UK.all(axis=1))[0])
        raise WrongAnswer(
            f"{method.name}: {complaint}; query {row}: got items {items_UK[row].tolist()}, the NumPy twin says "
            f"{wanted.items[row].tolist()}"
        )
