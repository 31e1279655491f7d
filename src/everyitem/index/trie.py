"""Which tokens may follow which: the token strings of a catalogue as a trie in flat arrays. Knows no scores."""

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from everyitem.types import Ids

Nodes = NDArray[np.int64]


class Trie(NamedTuple):
    """Prefixes as nodes, numbered level by level and inside a level in the order of their strings; node 0 is the root.

    The children of node n are `first_child[n]` to `first_child[n + 1]` (CSR), its items `order[low[n]:high[n]]`.
    """

    tokens_IM: Ids
    order: Ids
    """(I,) positions sorted by string; equal strings by position."""
    rank: Ids
    """(I,) the inverse of `order`."""
    token: Ids
    """(N,) the last token of every prefix; -1 for the root."""
    first_child: Nodes
    """(N + 1,)"""
    low: Nodes
    high: Nodes
    level: Nodes
    """(M + 2,) where every level begins: level m holds the prefixes of m tokens."""

    @classmethod
    def of(cls, tokens_IM: Ids) -> Self:
        """The trie of these strings. Cost: one sort of the catalogue."""
        num_items, num_levels = tokens_IM.shape
        order = np.lexsort(tokens_IM.T[::-1]).astype(np.int32)
        rank = np.empty_like(order)
        rank[order] = np.arange(num_items, dtype=np.int32)
        sorted_IM = tokens_IM[order]
        is_new_I = np.zeros(num_items, bool)
        lows, tokens = [np.zeros(1, np.int64)], [np.full(1, -1, np.int32)]
        for m in range(num_levels):
            is_new_I[:1] = True
            is_new_I[1:] |= sorted_IM[1:, m] != sorted_IM[:-1, m]
            lows.append(np.flatnonzero(is_new_I))
            tokens.append(sorted_IM[lows[-1], m])
        level = np.cumsum([0] + [len(low) for low in lows])
        # a node's children begin at its own first item, so they are found by where they begin
        children = [level[m + 1] + np.searchsorted(lows[m + 1], lows[m]) for m in range(num_levels)]
        leaves = np.full(len(lows[-1]) + 1, level[-1])
        highs = [np.append(low[1:], num_items) for low in lows]
        return cls(
            np.ascontiguousarray(tokens_IM),
            order,
            rank,
            np.concatenate(tokens),
            np.concatenate([*children, leaves]),
            np.concatenate(lows),
            np.concatenate(highs)[: level[-1]],
            level,
        )

    @property
    def num_levels(self) -> int:
        """M: tokens of an item."""
        return int(self.tokens_IM.shape[1])

    def is_leaf(self, nodes: Nodes) -> NDArray[np.bool_]:
        """Whether these prefixes are whole items."""
        leaves: NDArray[np.bool_] = nodes >= self.level[-2]
        return leaves

    def children(self, nodes: Nodes) -> tuple[Nodes, NDArray[np.intp]]:
        """All children of the nodes, and for every child the place of its parent among them."""
        return ranges(self.first_child[nodes], self.first_child[nodes + 1])


def ranges(starts: Nodes, stops: Nodes) -> tuple[Nodes, NDArray[np.intp]]:
    """The numbers of all ranges one after the other, and for each of them which range it belongs to."""
    sizes = stops - starts
    owner = np.repeat(np.arange(len(starts)), sizes)
    ends = np.cumsum(sizes)
    return np.arange(sizes.sum()) + (starts - ends + sizes)[owner], owner
