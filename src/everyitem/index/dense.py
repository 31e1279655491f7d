"""An index over whole item vectors: score(i) = <query, vectors[i]>. Knows no codes, ids or models."""

import threading
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from everyitem.index import door, files
from everyitem.index.core import load_core
from everyitem.types import Floats, Ids, TopK


class DenseIndex:
    """A catalogue of float32 vectors, searched exactly by dot product.

    Sums run in 16 fixed lanes (see `reference.dense_scores`), so bits depend on the query and the item only: not on
    batch, threads or CPU, which BLAS cannot promise.

    Searches see one state of the catalogue: `add` and `remove` in other threads take effect between searches.
    """

    def __init__(self, vectors_ID: ArrayLike) -> None:
        """Check and keep the vectors; they are not copied and must not change.

        Args:
            vectors_ID: float32, finite; a memory map will do.

        Raises:
            ValueError: not a matrix, no columns, or NaN or infinity inside.

        Cost: reads the vectors twice; 4 D I bytes resident.
        """
        vectors, _ = door.finite(vectors_ID, "vectors", 2)
        if vectors.shape[1] == 0:
            raise ValueError(f"vectors have shape {vectors.shape}, but at least one column is needed")
        door.check_room(len(vectors))
        self._core = load_core()
        self._state: tuple[Floats, door.Bits | None] = (vectors, None)
        self._low_D = vectors.min(axis=0, initial=0.0)
        self._high_D = vectors.max(axis=0, initial=0.0)
        self._writing = threading.Lock()

    @property
    def num_items(self) -> int:
        """Positions in the catalogue, removed ones included."""
        return len(self._state[0])

    @property
    def dim(self) -> int:
        """D: length of a query and of an item vector."""
        return len(self._low_D)

    @property
    def vectors_ID(self) -> Floats:
        """The vectors, read-only: float32 (I, D)."""
        vectors = self._state[0].view()
        vectors.flags.writeable = False
        return vectors

    @property
    def removed_I(self) -> NDArray[np.bool_]:
        """True where an item was removed: bool (I,)."""
        vectors_ID, removed = self._state
        return door.removed_mask(removed, len(vectors_ID))

    def removed_at(self, positions_UN: Ids) -> NDArray[np.bool_]:
        """(U, N) whether the items at these positions were removed; False for -1."""
        _, removed = self._state
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
        """The k best eligible items for each query, exactly. Arguments, result and errors as in `PQIndex.top_k`.

        Cost: O(U D I); vectors are read from memory once per group of up to 16 rows.
        """
        vectors_ID, removed = self._state
        query = self._queries(query_UD)
        found = self._core.dense_top_k(
            query,
            vectors_ID,
            door.count(k, "k"),
            door.allowed(allow, len(query), len(vectors_ID)),
            door.excluded(exclude, len(query), len(vectors_ID)),
            removed,
            door.seconds(deadline),
            door.num_threads(threads),
        )
        return door.certified(found, len(vectors_ID), lambda rows: self.ceilings(query[rows]))

    def scores(self, query_UD: ArrayLike, items_UN: ArrayLike) -> Floats:
        """The scores of given items, removed ones too: the bits that `top_k` would return.

        Args:
            query_UD: (U, D) float32, finite.
            items_UN: (U, N) positions.

        Returns:
            (U, N) float32.
        """
        vectors_ID, _ = self._state
        query = self._queries(query_UD)
        items = door.item_rows(items_UN, len(query), len(vectors_ID))
        out = np.empty(items.shape, np.float32)
        for row, chosen in enumerate(items):
            out[row] = self._core.dense_scores(query[row, None], vectors_ID[chosen])[0]
        return out

    @property
    def corners_2D(self) -> Floats:
        """The least and the largest of every dimension: the box around all items."""
        return np.stack([self._low_D, self._high_D])

    def ceilings(self, query_UD: ArrayLike) -> Floats:
        """(U,) no item scores more: the best corner of the box around all items, summed in the order of a score."""
        query = self._queries(query_UD)
        corner_UD = np.where(query >= 0, self._high_D, self._low_D)
        rows = [self._core.dense_scores(q[None], c[None])[0] for q, c in zip(query, corner_UD, strict=True)]
        return np.concatenate(rows)

    def vectors(self, positions: ArrayLike) -> Floats:
        """(N, D) float32: the vectors at these positions."""
        vectors_ID, _ = self._state
        return vectors_ID[door.positions(positions, len(vectors_ID))]

    def add(self, *, vectors: ArrayLike) -> Ids:
        """Append items; the positions of all others stay.

        Args:
            vectors: (N, D) float32, finite.

        Returns:
            (N,) int32 positions of the new items.

        Cost: copies the catalogue, 4 D I bytes, once per call.
        """
        new_ND = door.vectors(vectors, self.dim)
        with self._writing:
            vectors_ID, removed = self._state
            door.check_room(len(vectors_ID) + len(new_ND))
            both = np.concatenate([vectors_ID, new_ND])
            self._low_D = np.minimum(self._low_D, new_ND.min(axis=0, initial=0.0))
            self._high_D = np.maximum(self._high_D, new_ND.max(axis=0, initial=0.0))
            self._state = (both, door.grown(removed, len(both)))
        return np.arange(len(both) - len(new_ND), len(both), dtype=np.int32)

    def remove(self, positions: ArrayLike) -> None:
        """Never return these positions again. Other positions stay; removing twice is fine."""
        with self._writing:
            vectors_ID, removed = self._state
            gone = door.positions(positions, len(vectors_ID))
            self._state = (vectors_ID, door.marked(removed, gone, len(vectors_ID)))

    def restore(self, positions: ArrayLike) -> None:
        """Return removed positions again."""
        with self._writing:
            vectors_ID, removed = self._state
            self._state = (vectors_ID, door.unmarked(removed, door.positions(positions, len(vectors_ID))))

    def save(self, folder: str | Path) -> Path:
        """Write a new version into the folder and make it current; see `files.save`. `load_index` reads it."""
        vectors_ID, removed = self._state
        sections = {"vectors": vectors_ID, "removed": door.removed_mask(removed, len(vectors_ID))}
        return files.save(folder, "dense", sections | files.golden(self, self.dim))

    def _queries(self, query_UD: ArrayLike) -> Floats:
        return door.queries(query_UD, self.dim, float(np.maximum(-self._low_D, self._high_D).max()))
