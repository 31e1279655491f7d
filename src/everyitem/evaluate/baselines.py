"""What a trained model must beat: popularity, repetition, first-order Markov, item neighbours.

Four rankers that count and do not learn. They know histories and the size of the catalogue, neither times nor
attributes. All rank candidates of their own first and then back off to popularity, whose scores

    popularity(i) = -1 / (1 + n_i)        in [-1, 0), n_i training events of item i

keep the order of the counts and lie below those of any candidate. Memory is flat: never a users x items matrix.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray

from everyitem.types import Floats, Histories, Ids, TopK

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Offsets = NDArray[np.int64]
Candidates = Callable[[Ids, int], tuple[Ids, Floats]]
"""(history, n) -> at least the n best candidates, if there are as many, best first, and their scores."""

_CHUNK = 1 << 23  # co-occurrences held at a time


@final
class Popularity:
    """The items with most training events, the same for every user.

    Args:
        histories: training rows.
        num_items: size of the catalogue; items without events come last, by position.

    Cost: O(events + I log I); a rank is O(k + history) per user.
    """

    def __init__(self, histories: Histories, num_items: int) -> None:
        self.counts_I = np.bincount(_events(histories)[0], minlength=num_items)
        self.score_I = -1 / (1 + self.counts_I)
        self.items = np.argsort(-self.score_I.astype(np.float32), kind="stable").astype(np.int32)
        self.scores = self.score_I[self.items].astype(np.float32)

    def rank(self, histories: Histories, k: int, *, exclude_seen: bool = False) -> TopK:
        """The k most popular items; see `everyitem.types.Ranker`."""
        return _rank(_nothing, self, histories, k, exclude_seen)


@final
class RepeatLast:
    """The distinct items of the history, newest first, then the popular ones.

    score(i) = the place of i's last event in the history, counted from 1 at the oldest. With `exclude_seen` nothing
    is left of it but popularity.

    Args:
        histories: training rows (for the popular ones).
        num_items: size of the catalogue.
    """

    def __init__(self, histories: Histories, num_items: int) -> None:
        self.popularity = Popularity(histories, num_items)

    def rank(self, histories: Histories, k: int, *, exclude_seen: bool = False) -> TopK:
        """The k newest distinct items; see `everyitem.types.Ranker`."""
        return _rank(_newest_first, self.popularity, histories, k, exclude_seen)


@final
class Markov:
    """What most often came next after the last item of the history (first-order Markov chain), then popularity.

    score(i) = count(last -> i) - 1 / (1 + n_i): counts first, among equal counts the more popular item.

    Args:
        histories: training rows; consecutive events of a row are transitions, repeats included.
        num_items: size of the catalogue.

    Cost: O(events log events) time and about 60 bytes an event while counting, 8 bytes a distinct transition after.
    """

    def __init__(self, histories: Histories, num_items: int) -> None:
        self.popularity = Popularity(histories, num_items)
        items, rows = _events(histories)
        same_row = rows[1:] == rows[:-1]
        keys = items[:-1][same_row] * np.int64(num_items) + items[1:][same_row]
        keys, counts = np.unique(keys, return_counts=True)
        last, following = np.divmod(keys, num_items)
        scores = (counts + self.popularity.score_I[following]).astype(np.float32)
        best_first = np.lexsort((-scores, last))  # stable: keys came sorted, so ties stay in order of position
        self.starts = np.searchsorted(last, np.arange(num_items + 1))
        self.following = following[best_first].astype(np.int32)
        self.scores = scores[best_first]

    def rank(self, histories: Histories, k: int, *, exclude_seen: bool = False) -> TopK:
        """The k likeliest successors of every row's last item; see `everyitem.types.Ranker`."""
        return _rank(self._candidates, self.popularity, histories, k, exclude_seen)

    def _candidates(self, history: Ids, n: int) -> tuple[Ids, Floats]:
        if not len(history):
            return _nothing(history, n)
        start, stop = self.starts[history[-1]], self.starts[history[-1] + 1]
        row = slice(start, min(start + n, stop))
        return self.following[row], self.scores[row]


@final
class ItemKNN:
    """Items that occur together with the user's latest ones, by cosine (Sarwar et al., WWW 2001), then popularity.

    Every training row is cut, from its newest event backwards, into windows of `window` events; W(i) are the windows
    that hold item i. For a history whose event of age a (0: the newest) is item j:

        cosine(i, j) = |W(i) and W(j)| / sqrt(|W(i)| |W(j)|),   i != j
        score(i) = sum over ages a < num_recent of cosine(i, j_a) / (1 + a),   over the neighbours kept

    Rows of up to `window` events, most of any log, are whole baskets as in the paper; longer ones would make the
    number of pairs grow with the square of their length.

    Args:
        histories: training rows.
        num_items: size of the catalogue.
        window: events that count as one basket.
        num_neighbours: neighbours kept per item; equally near ones by position.
        num_recent: newest events of a history that vote.

    Cost: O(events window) time, at most 8 I num_neighbours bytes. Needs scipy (extra "train").
    """

    def __init__(
        self,
        histories: Histories,
        num_items: int,
        *,
        window: int = 50,
        num_neighbours: int = 100,
        num_recent: int = 20,
    ) -> None:
        self.popularity = Popularity(histories, num_items)
        self.num_recent = num_recent
        self.starts, self.neighbours, self.cosines = _neighbours(_baskets(histories, num_items, window), num_neighbours)

    def rank(self, histories: Histories, k: int, *, exclude_seen: bool = False) -> TopK:
        """The k items nearest to every row's latest ones; see `everyitem.types.Ranker`."""
        return _rank(self._candidates, self.popularity, histories, k, exclude_seen)

    def _candidates(self, history: Ids, n: int) -> tuple[Ids, Floats]:
        recent = history[::-1][: self.num_recent]
        slots, age = _ranges(self.starts[recent], self.starts[recent + 1])
        items, inverse = np.unique(self.neighbours[slots], return_inverse=True)
        scores = np.bincount(inverse, self.cosines[slots] / (1 + age), minlength=len(items)).astype(np.float32)
        best_first = np.argsort(-scores, kind="stable")
        return items[best_first], scores[best_first]


def _rank(candidates: Candidates, popularity: Popularity, histories: Histories, k: int, exclude_seen: bool) -> TopK:
    """Candidates, then popularity, without duplicates and without what the history holds if that is wanted."""
    num_users = len(histories)
    items = np.full((num_users, k), -1, np.int32)
    scores = np.full((num_users, k), -np.inf, np.float32)
    scored = np.zeros(num_users, np.int64)
    taken = np.zeros(len(popularity.items), bool)  # one scratch row for all users, wiped after each
    for u, history in enumerate(histories):
        seen = history if exclude_seen else history[:0]
        taken[seen] = True
        enough = k + len(seen)
        own, own_scores = candidates(history, enough)
        first = np.flatnonzero(~taken[own])[:k]
        taken[own[first]] = True
        popular = popularity.items[:enough]
        rest = np.flatnonzero(~taken[popular])[: k - len(first)]
        end = len(first) + len(rest)
        items[u, :end] = np.concatenate([own[first], popular[rest]])
        scores[u, :end] = np.concatenate([own_scores[first], popularity.scores[rest]])
        scored[u] = len(own) + len(rest)
        taken[seen] = taken[own[first]] = False
    return TopK(items, scores, bound=scores[:, -1].copy(), scored=scored)


def _nothing(history: Ids, n: int) -> tuple[Ids, Floats]:
    return np.empty(0, np.int32), np.empty(0, np.float32)


def _newest_first(history: Ids, n: int) -> tuple[Ids, Floats]:
    items, age = np.unique(history[::-1], return_index=True)
    newest_first = np.argsort(age)
    return items[newest_first], (len(history) - age[newest_first]).astype(np.float32)


def _events(histories: Histories) -> tuple[Ids, Offsets]:
    """(N,) the items of all rows, one row after the other, and (N,) the row of each."""
    slots, rows = _ranges(histories.starts, histories.stops)
    return histories.items[slots], rows


def _ranges(starts: Offsets, stops: Offsets) -> tuple[Offsets, Offsets]:
    """All numbers of the ranges [start, stop), one range after the other, and the range of each."""
    lengths = stops - starts
    ends = np.cumsum(lengths)
    which = np.repeat(np.arange(len(starts)), lengths)
    return np.arange(len(which)) + (starts - ends + lengths)[which], which


def _baskets(histories: Histories, num_items: int, window: int) -> "csr_array[Any]":
    """(windows, I) 1 where a window of a row holds the item."""
    from scipy.sparse import csr_array

    slots, rows = _ranges(histories.starts, histories.stops)
    per_row = -(-histories.lengths // window)
    basket = (np.cumsum(per_row) - per_row)[rows] + (histories.stops[rows] - 1 - slots) // window
    shape = (int(per_row.sum()), num_items)
    baskets = csr_array((np.ones(len(slots), np.int32), (basket, histories.items[slots])), shape=shape)
    baskets.sum_duplicates()
    baskets.data[:] = 1
    return baskets


def _neighbours(baskets: "csr_array[Any]", num_neighbours: int) -> tuple[Offsets, Ids, Floats]:
    """The nearest items of every item in CSR form: offsets (I + 1,), positions and cosines, nearest first."""
    by_item = baskets.T.tocsr()
    size_I = np.diff(by_item.indptr)
    pairs_I = by_item @ np.diff(baskets.indptr)
    room = int(np.minimum(pairs_I, num_neighbours).sum())  # an upper bound: pages never written cost nothing
    neighbours, cosines = np.empty(room, np.int32), np.empty(room, np.float32)
    starts = np.zeros(len(size_I) + 1, np.int64)
    used = 0
    for start, stop in _chunks(pairs_I):
        rows, columns, cosine = _nearest(by_item[start:stop] @ baskets, start, size_I, num_neighbours)
        neighbours[used : used + len(rows)], cosines[used : used + len(rows)] = columns, cosine
        used += len(rows)
        starts[start + 1 : stop + 1] = np.bincount(rows, minlength=stop - start)
    return np.cumsum(starts), neighbours[:used], cosines[:used]


def _nearest(
    together: "csr_array[Any]", first_item: int, size_I: NDArray[Any], num_neighbours: int
) -> tuple[Offsets, Ids, Floats]:
    """The best columns of every row of a block of the co-occurrence counts: row, column, cosine.

    Positive floats order like their bits, so one integer, (cosine upside down, column), orders a neighbour.
    """
    rows = np.repeat(np.arange(together.shape[0]), np.diff(together.indptr))
    items, columns = rows + first_item, together.indices
    cosine = (together.data / np.sqrt(size_I[items] * size_I[columns].astype(np.float64))).astype(np.float32)
    keys = (~cosine.view(np.uint32)).astype(np.uint64) << np.uint64(32) | columns.astype(np.uint64)
    keys[columns == items] = np.iinfo(np.uint64).max  # no item is its own neighbour: every row holds itself once
    for start, stop in pairwise(together.indptr.tolist()):
        keys[start:stop].sort()
    others = np.diff(together.indptr) - 1
    near = np.arange(len(rows)) - together.indptr[rows] < np.minimum(others, num_neighbours)[rows]
    keys = keys[near]
    columns, bits = keys.astype(np.uint32), ~(keys >> np.uint64(32)).astype(np.uint32)
    return rows[near], columns.view(np.int32), bits.view(np.float32)


def _chunks(pairs_I: NDArray[Any]) -> Iterator[tuple[int, int]]:
    """Ranges of items with about `_CHUNK` co-occurrences each, one item at least."""
    chunk_I = np.cumsum(pairs_I) // _CHUNK
    return pairwise([0, *(np.flatnonzero(np.diff(chunk_I)) + 1).tolist(), len(pairs_I)])
