"""Search over the prefixes of a trie, one prompt at a time: what a beam keeps, what it cuts, what is left to prove.

Knows prefixes and their log-probabilities; does not know where those come from.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from everyitem.index import door
from everyitem.index.trie import Nodes, Trie, ranges
from everyitem.types import Floats, Ids, TopK

Counts = NDArray[np.int64]
"""(I + 1,) how many eligible items stand among the first so many of the trie's order."""


class Eligible(NamedTuple):
    """What one row may return, by rank in the trie's order."""

    counts: Counts | None
    """Without regard to exclusions; None: every item."""
    excluded: NDArray[np.int64]
    """Ranks of excluded items that `counts` counts, ascending."""

    def any_below(self, low: Nodes, high: Nodes) -> NDArray[np.bool_]:
        """Whether any item of these ranges is eligible."""
        allowed = high - low if self.counts is None else self.counts[high] - self.counts[low]
        excluded = np.searchsorted(self.excluded, high) - np.searchsorted(self.excluded, low)
        some: NDArray[np.bool_] = allowed > excluded
        return some


def kept_counts(trie: Trie, removed: door.Bits) -> Counts:
    """Counts of the items that were not removed."""
    return _counts(trie, ~door.removed_mask(removed, len(trie.order)))


def _counts(trie: Trie, eligible_I: NDArray[np.bool_]) -> Counts:
    return np.concatenate([[0], np.cumsum(eligible_I[trie.order], dtype=np.int64)])


class Filters:
    """What a search was asked to leave out: `removed` and `kept` are of the catalogue, the others of the query."""

    def __init__(
        self, trie: Trie, removed: door.Bits | None, kept: Counts | None, allow: door.Bits | None, exclude: Ids | None
    ) -> None:
        self._trie, self._removed, self._allow, self._exclude = trie, removed, allow, exclude
        self._shared = self._allowed(0) if allow is not None and len(allow) == 1 else kept

    def of_row(self, row: int) -> Eligible:
        """What this row may return."""
        several = self._allow is not None and len(self._allow) > 1
        counts = self._allowed(row) if several else self._shared
        if self._exclude is None:
            return Eligible(counts, np.empty(0, np.int64))
        gone = self._exclude[row]
        excluded = np.unique(self._trie.rank[gone[gone >= 0]].astype(np.int64))
        if counts is not None:
            excluded = excluded[counts[excluded + 1] > counts[excluded]]
        return Eligible(counts, excluded)

    def _allowed(self, row: int) -> Counts:
        assert self._allow is not None
        bits = self._allow[row] if self._removed is None else self._allow[row] & ~self._removed
        return _counts(self._trie, np.unpackbits(bits, count=len(self._trie.order), bitorder="little").astype(bool))


class Search:
    """One row: the k best items so far, and the prefixes that were not followed."""

    def __init__(self, trie: Trie, eligible: Eligible, k: int, width: int, exact: bool) -> None:
        self.trie, self.eligible, self.k, self.width, self.exact = trie, eligible, k, width, exact
        self.level = 0
        self.items, self.scores, self.scored = np.empty(0, np.int32), np.empty(0, np.float32), 0
        self.fresh = self.cut = Prefixes(np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.int64))

    def grow(self, nodes: Nodes, scores: Floats, numbers: NDArray[np.int64], log_probs_NV: Floats) -> None:
        """Take in what the model says after these prefixes, which it knows under these numbers."""
        children, owner = self.trie.children(nodes)
        alive = self.eligible.any_below(self.trie.low[children], self.trie.high[children])
        children, owner = children[alive], owner[alive]
        grown = scores[owner] + _checked_log_probs(log_probs_NV, owner, self.trie.token[children])
        leaves = self.trie.is_leaf(children)
        self._add_items(children[leaves], grown[leaves])
        inner = ~leaves
        self.fresh = self.fresh.joined(Prefixes(children[inner], grown[inner], numbers[owner[inner]]))

    def choose(self) -> "Prefixes":
        """The prefixes that the model shall read next; none if the search is over.

        First the best of every level, then, if that was not enough, the best of all that were cut. A prefix that is as
        likely as the k-th item is followed: an item below it may tie, and come first.
        """
        self.level += 1
        candidates = self.fresh
        if self.level >= self.trie.num_levels:
            full = len(self.items) == self.k
            candidates = self.cut.joined(self.fresh)
            if full and not self.exact:
                self.cut, self.fresh = candidates, candidates.at(slice(0, 0))
                return self.fresh
            if full:
                candidates = candidates.at(candidates.scores >= self.scores[-1])
            self.cut = candidates.at(slice(0, 0))
        best = _best(candidates.scores, candidates.nodes, self.width)
        rest = np.ones(len(candidates.nodes), bool)
        rest[best] = False
        self.cut, self.fresh = self.cut.joined(candidates.at(rest)), candidates.at(slice(0, 0))
        return candidates.at(best)

    def _add_items(self, leaves: Nodes, scores: Floats) -> None:
        if len(self.items) == self.k:
            kept = scores >= self.scores[-1]
            leaves, scores = leaves[kept], scores[kept]
        ranks, owner = ranges(self.trie.low[leaves], self.trie.high[leaves])
        kept = self.eligible.any_below(ranks, ranks + 1)
        items, scores = self.trie.order[ranks[kept]], scores[owner[kept]]
        self.scored += len(items)
        items, scores = np.concatenate([self.items, items]), np.concatenate([self.scores, scores])
        best = _best(scores, items, self.k)
        self.items, self.scores = items[best], scores[best]

    def write(self, out: TopK, row: int) -> None:
        """This row's part of the answer."""
        out.items[row, : len(self.items)], out.scores[row, : len(self.items)] = self.items, self.scores
        left = max(self.cut.scores.max(initial=-np.inf), self.fresh.scores.max(initial=-np.inf))
        out.bound[row] = max(left, out.scores[row, -1])
        out.scored[row] = self.scored


class Prefixes(NamedTuple):
    """Prefixes that the model has not read: node, score, and the number under which it knows their parent."""

    nodes: Nodes
    scores: Floats
    parents: NDArray[np.int64]

    def at(self, chosen: Any) -> "Prefixes":
        """Some of them."""
        return Prefixes(self.nodes[chosen], self.scores[chosen], self.parents[chosen])

    def joined(self, other: "Prefixes") -> "Prefixes":
        """Both, one after the other."""
        return Prefixes(
            np.concatenate([self.nodes, other.nodes]),
            np.concatenate([self.scores, other.scores]),
            np.concatenate([self.parents, other.parents]),
        )


def _best(scores: Floats, second: NDArray[Any], k: int) -> NDArray[np.intp]:
    """Places of the k best, best first: score descending, then `second` ascending."""
    places = np.arange(len(scores))
    if len(scores) > k:
        places = np.flatnonzero(scores >= np.partition(scores, -k)[-k])
    return places[np.lexsort((second[places], -scores[places]))[:k]]


def _checked_log_probs(log_probs_NV: Floats, owner: NDArray[np.intp], tokens: Ids) -> Floats:
    if len(tokens) and tokens.max() >= log_probs_NV.shape[1]:
        raise ValueError(
            f"the language model has {log_probs_NV.shape[1]} tokens, but an item of this index has token "
            f"{tokens.max()}; add the items' tokens to its vocabulary"
        )
    found = np.asarray(log_probs_NV[owner, tokens], np.float32)
    if not ((found <= 0) & (found > -np.inf)).all():
        wrong = found[~((found <= 0) & (found > -np.inf))][0]
        raise ValueError(
            f"the language model returned {wrong} for a token that leads to an item, but log-probabilities are finite "
            "and at most 0; use log-softmax over logits that are not masked"
        )
    return found
