"""An index of item vectors in clusters: score(i) = log p(i's cluster | query) + log p(i | its cluster, query).

Knows no ids or models, and not how clusters were chosen.
"""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from everyitem.index import door, files, grouping
from everyitem.index.core import load_core
from everyitem.index.softmax import capped, log_sum_exp
from everyitem.types import Floats, Ids, TopK


class State(NamedTuple):
    """What one search sees. Rows stand cluster by cluster, those of a cluster in order of position."""

    vectors_ID: Floats
    """Of every row; may be a memory map."""
    positions_I: Ids
    """Of every row."""
    rows_I: Ids
    """Of every position."""
    starts_C: NDArray[np.int64]
    """(C + 1,): cluster c has rows starts[c] to starts[c + 1]."""
    clusters_CD: Floats
    bias_C: Floats
    largest: float
    """Magnitude among vectors and clusters."""
    removed: door.Bits | None
    catalogue: Any
    """Of the core."""

    def cluster_of(self, positions: NDArray[Any]) -> NDArray[np.int64]:
        """The cluster of every position, of the same shape."""
        found: NDArray[np.int64] = np.searchsorted(self.starts_C, self.rows_I[positions], side="right") - 1
        return found


class TwoLevelIndex:
    """A catalogue under a two-level softmax (arXiv:2509.03746), searched exactly.

    log p(i | q) = log p(c | q) + log p(i | c, q) for c the item's cluster: a softmax over the clusters that hold items,
    of <q, clusters[c]> + bias[c], and one over the items of the cluster, of <q, vectors[i]>. The paper's serving code
    leaves the second normaliser out unless told otherwise; here it is always there, so that the ranking is that of the
    model. As p(i | c, q) <= 1, no item of a cluster exceeds log p(c | q): clusters are visited best first, until the
    next one is below the k-th best score. float32 keeps that bound without any slack (`native/two_level.cpp`).

    Removed items keep their part of the probability: removing hides an item and changes no other score. Adding an item
    does change the scores of its cluster, to those of an index built with it.

    Searches see one state of the catalogue: `add`, `remove` and `rebalance` in other threads take effect between them.
    """

    def __init__(
        self,
        vectors_ID: ArrayLike,
        cluster_of_I: ArrayLike,
        clusters_CD: ArrayLike,
        *,
        bias_C: ArrayLike | None = None,
        logit_cap: float | None = None,
    ) -> None:
        """Check and copy the vectors, cluster by cluster.

        Args:
            vectors_ID: float32, finite.
            cluster_of_I: integers, 0 <= cluster < C; a cluster may be empty.
            clusters_CD: float32, finite, C >= 1.
            bias_C: what is added to the logits of clusters; None: 0.
            logit_cap: logits x become cap tanh(x / cap) before the bias, as they were in training; None: they stay.

        Raises:
            ValueError: an argument is not as above.

        Cost: 4 D I + 8 I bytes resident; O(I log I) time.
        """
        vectors, _ = door.finite(vectors_ID, "vectors", 2)
        centres, _ = door.finite(clusters_CD, "clusters", 2)
        if vectors.shape[1] == 0 or centres.shape[1] != vectors.shape[1] or len(centres) == 0:
            raise ValueError(
                f"vectors have shape {vectors.shape} and clusters {centres.shape}, but both need the same number of "
                "columns, and at least one cluster is needed"
            )
        bias = np.zeros(len(centres), np.float32) if bias_C is None else door.finite(bias_C, "bias", 1)[0]
        if bias.shape != (len(centres),) or np.abs(bias).max() > door.LARGEST / 16:
            raise ValueError(f"bias has shape {bias.shape}, but ({len(centres)},) of moderate values is needed")
        if logit_cap is not None and not 0 < logit_cap < np.inf:
            raise ValueError(f"logit_cap is {logit_cap}, but it must be positive and finite, or None for no cap")
        self.dim: int = vectors.shape[1]
        """D: length of a query, of an item vector and of a cluster's."""
        self.logit_cap = None if logit_cap is None else float(np.float32(logit_cap))
        self._writing = threading.Lock()
        self._state = self._arranged(
            vectors, _checked_clusters(cluster_of_I, len(vectors), len(centres)), centres, bias
        )

    @property
    def num_items(self) -> int:
        """Positions in the catalogue, removed ones included."""
        return len(self._state.positions_I)

    @property
    def num_clusters(self) -> int:
        """C, empty clusters included."""
        return len(self._state.clusters_CD)

    @property
    def vectors_ID(self) -> Floats:
        """The vectors by position, a copy: float32 (I, D)."""
        state = self._state
        return np.asarray(state.vectors_ID[state.rows_I])

    @property
    def cluster_of_I(self) -> Ids:
        """The cluster of every position: int32 (I,)."""
        state = self._state
        return state.cluster_of(np.arange(len(state.rows_I))).astype(np.int32)

    @property
    def clusters_CD(self) -> Floats:
        """The cluster vectors, a copy: float32 (C, D)."""
        return self._state.clusters_CD.copy()

    @property
    def bias_C(self) -> Floats:
        """What is added to the logits of clusters, a copy: float32 (C,)."""
        return self._state.bias_C.copy()

    @property
    def cluster_sizes_C(self) -> NDArray[np.int64]:
        """Items in every cluster, removed ones included: int64 (C,)."""
        return np.diff(self._state.starts_C)

    @property
    def removed_I(self) -> NDArray[np.bool_]:
        """True where an item was removed: bool (I,)."""
        state = self._state
        return door.removed_mask(state.removed, len(state.positions_I))

    def removed_at(self, positions_UN: Ids) -> NDArray[np.bool_]:
        """(U, N) whether the items at these positions were removed; False for -1."""
        removed = self._state.removed
        if removed is None:
            return np.zeros(positions_UN.shape, bool)
        return (positions_UN >= 0) & door.bits_at(removed[None], np.maximum(positions_UN, 0))

    def top_k(
        self,
        query_UD: ArrayLike,
        k: int,
        *,
        allow: ArrayLike | None = None,
        exclude: ArrayLike | None = None,
        deadline: float | None = None,
        threads: int | None = None,
    ) -> TopK:
        """The k most probable eligible items for each query, exactly. Arguments and errors as in `PQIndex.top_k`.

        Scores are natural logarithms of probabilities, over all items: those of allowed items need not add up to one.

        Cost per row: C dot products, then one per item of the clusters that are visited, which `scored` counts: those
        whose log p(c) is at least the k-th best score, if they hold an eligible item.
        """
        state = self._state
        query = self._queries(query_UD, state)
        num_items = len(state.positions_I)
        found = state.catalogue.top_k(
            query,
            door.count(k, "k"),
            door.allowed(allow, len(query), num_items),
            door.excluded(exclude, len(query), num_items),
            state.removed,
            door.seconds(deadline),
            door.num_threads(threads),
        )
        return TopK(*found)

    def scores(self, query_UD: ArrayLike, items_UN: ArrayLike) -> Floats:
        """The scores of given items, removed ones too: the bits that `top_k` would return.

        Args:
            query_UD: (U, D) float32, finite.
            items_UN: (U, N) positions.

        Returns:
            (U, N) float32.

        Cost: a row computes all items of the clusters that its items are in.
        """
        state = self._state
        query = self._queries(query_UD, state)
        items = door.item_rows(items_UN, len(query), len(state.positions_I))
        rows_UN = np.ascontiguousarray(state.rows_I[items], np.int64)
        scores: Floats = state.catalogue.scores(query, rows_UN)
        return scores

    def levels(self, query_D: ArrayLike, item: int) -> tuple[int, np.float32, np.float32]:
        """What an item's score is the float32 sum of: its cluster, log p(cluster), log p(item | cluster)."""
        state, core = self._state, load_core()
        query = self._queries(np.asarray(query_D)[None], state)
        row = state.rows_I[door.positions(item, len(state.rows_I))[0]]
        cluster = int(np.searchsorted(state.starts_C, row, side="right")) - 1
        start, stop = state.starts_C[cluster : cluster + 2]
        clusters_1C = capped(core.dense_scores(query, state.clusters_CD), self.logit_cap) + state.bias_C
        clusters_1C[:, np.diff(state.starts_C) == 0] = -np.inf
        inside_1N = capped(core.dense_scores(query, state.vectors_ID[start:stop]), self.logit_cap)
        of_cluster = clusters_1C[0, cluster] - log_sum_exp(clusters_1C)[0]
        return cluster, of_cluster, inside_1N[0, row - start] - log_sum_exp(inside_1N)[0]

    def vectors(self, positions: ArrayLike) -> Floats:
        """(N, D) float32: the vectors at these positions."""
        state = self._state
        return np.asarray(state.vectors_ID[state.rows_I[door.positions(positions, len(state.rows_I))]])

    def nearest_clusters(self, vectors: ArrayLike) -> Ids:
        """(N,) the cluster whose items' mean is nearest to each vector; an empty cluster stands at its own vector.

        Ties go to the smaller number. Cost: reads the catalogue once.
        """
        return self._nearest(door.vectors(vectors, self.dim), self._state)

    def add(self, *, vectors: ArrayLike, clusters: ArrayLike | None = None) -> Ids:
        """Append items; the positions of all others stay. Scores change in the clusters that were joined alone.

        (Where one of those was empty, it takes its share of the probability from all.)

        Args:
            vectors: (N, D) float32, finite.
            clusters: (N,) where they belong; None: to the nearest clusters, see `nearest_clusters`.

        Returns:
            (N,) int32 positions of the new items.

        Cost: copies the catalogue, 4 D I bytes, once per call.
        """
        new_ND = door.vectors(vectors, self.dim)
        with self._writing:
            state = self._state
            before, after = len(state.positions_I), len(state.positions_I) + len(new_ND)
            door.check_room(after)
            joined_N = self._nearest(new_ND, state) if clusters is None else clusters
            joined_N = _checked_clusters(joined_N, len(new_ND), len(state.clusters_CD))
            made = self._arranged(
                np.concatenate([state.vectors_ID[state.rows_I], new_ND]),
                np.concatenate([state.cluster_of(np.arange(before)), joined_N]),
                state.clusters_CD,
                state.bias_C,
            )
            self._state = made._replace(removed=door.grown(state.removed, after))
        return np.arange(before, after, dtype=np.int32)

    def remove(self, positions: ArrayLike) -> None:
        """Never return these positions again. Other positions and scores stay; removing twice is fine."""
        with self._writing:
            state = self._state
            gone = door.positions(positions, len(state.positions_I))
            self._state = state._replace(removed=door.marked(state.removed, gone, len(state.positions_I)))

    def restore(self, positions: ArrayLike) -> None:
        """Return removed positions again."""
        with self._writing:
            state = self._state
            back = door.positions(positions, len(state.positions_I))
            self._state = state._replace(removed=door.unmarked(state.removed, back))

    def rebalance(self, max_cluster_size: int) -> int:
        """Halve clusters until none has more items: what a visit costs stays bounded however many items were added.

        A half's vector and bias make log p(half) + log p(i | half) what log p(c) + log p(i | c) was, to first order
        in the query (`grouping.split`): the ranking changes a little, `docs/results.md` says how much.

        Args:
            max_cluster_size: at least 1.

        Returns:
            The number of clusters now.

        Cost: copies the catalogue; a few passes over the items of large clusters.
        """
        limit = door.count(max_cluster_size, "max_cluster_size")
        with self._writing:
            state = self._state
            vectors_ID = np.asarray(state.vectors_ID[state.rows_I])
            cluster_of_I = state.cluster_of(np.arange(len(vectors_ID)))
            made = grouping.split(vectors_ID, cluster_of_I, state.clusters_CD, state.bias_C, limit)
            self._state = self._arranged(vectors_ID, *made)._replace(removed=state.removed)
            return len(self._state.clusters_CD)

    def save(self, folder: str | Path) -> Path:
        """Write a new version into the folder and make it current; see `files.save`. `load_index` reads it."""
        state = self._state
        sections: dict[str, NDArray[Any]] = {
            "vectors": state.vectors_ID,
            "positions": state.positions_I,
            "starts": state.starts_C,
            "clusters": state.clusters_CD,
            "bias": state.bias_C,
            "logit_cap": np.array([] if self.logit_cap is None else [self.logit_cap], np.float32),
            "removed": door.removed_mask(state.removed, len(state.positions_I)),
        }
        return files.save(folder, "two-level", sections | files.golden(self, self.dim))

    @classmethod
    def from_sections(cls, sections: Mapping[str, NDArray[Any]]) -> Self:
        """The index that `save` wrote, from the arrays of its folder; vectors stay mapped.

        Raises:
            ValueError: the arrays do not fit each other.
        """
        starts, positions = np.array(sections["starts"]), np.array(sections["positions"])
        vectors, cap = door.finite(sections["vectors"], "vectors", 2)[0], sections["logit_cap"].ravel().tolist()
        sound = starts.ndim == 1 and starts.dtype == np.int64 and positions.dtype == np.int32 and len(cap) <= 1
        sound = sound and starts[:1].tolist() == [0] and starts[-1:].tolist() == [len(vectors)]
        sound = sound and bool((np.diff(starts) >= 0).all())
        if not sound or not np.array_equal(np.sort(positions), np.arange(len(vectors))):
            raise ValueError("positions and starts do not order the items by cluster")
        none = np.empty((0, vectors.shape[1]), np.float32)
        index = cls(none, [], sections["clusters"], bias_C=sections["bias"], logit_cap=cap[0] if cap else None)
        if len(starts) != index.num_clusters + 1:
            raise ValueError(f"starts are of {len(starts) - 1} clusters, but there are {index.num_clusters}")
        index._state = index._stated(vectors, positions, starts, index._state.clusters_CD, index._state.bias_C)
        return index

    def _arranged(self, vectors_ID: Floats, cluster_of_I: NDArray[Any], clusters_CD: Floats, bias_C: Floats) -> State:
        """A state of vectors by position, nothing removed."""
        door.check_room(len(vectors_ID))
        order = np.argsort(cluster_of_I, kind="stable").astype(np.int32)
        starts_C = np.searchsorted(cluster_of_I[order], np.arange(len(clusters_CD) + 1))
        return self._stated(vectors_ID[order], order, starts_C.astype(np.int64), clusters_CD, bias_C)

    def _stated(
        self, rows_ID: Floats, positions_I: Ids, starts_C: NDArray[np.int64], clusters_CD: Floats, bias_C: Floats
    ) -> State:
        rows_I = np.empty_like(positions_I)
        rows_I[positions_I] = np.arange(len(positions_I), dtype=np.int32)
        largest = max(float(np.abs(clusters_CD).max()), float(rows_ID.max(initial=0)), -float(rows_ID.min(initial=0)))
        catalogue = load_core().TwoLevelCatalogue(rows_ID, positions_I, starts_C, clusters_CD, bias_C, self.logit_cap)
        return State(rows_ID, positions_I, rows_I, starts_C, clusters_CD, bias_C, largest, None, catalogue)

    def _queries(self, query_UD: ArrayLike, state: State) -> Floats:
        # a score is the sum of four logits or their like, each of which must leave room for the others
        return door.queries(query_UD, self.dim, 4 * state.largest)

    def _nearest(self, vectors_ND: Floats, state: State) -> Ids:
        means_CD = state.clusters_CD.copy()
        for c in np.flatnonzero(np.diff(state.starts_C)):
            means_CD[c] = state.vectors_ID[state.starts_C[c] : state.starts_C[c + 1]].mean(axis=0, dtype=np.float64)
        return grouping.nearest(vectors_ND, means_CD)


def _checked_clusters(cluster_of_N: ArrayLike, num_items: int, num_clusters: int) -> NDArray[np.int64]:
    """(N,) clusters of so many items, each below `num_clusters`."""
    array = np.asarray(cluster_of_N)
    if array.shape != (num_items,) or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise ValueError(
            f"cluster_of is {array.dtype} of shape {array.shape}, but integers of shape ({num_items},) are needed"
        )
    outside = array[(array < 0) | (array >= num_clusters)]
    if outside.size:
        raise ValueError(f"cluster_of holds {outside[0]}, but there are clusters 0 to {num_clusters - 1}")
    return array.astype(np.int64)
