"""An index over product-quantised items: score(i) = sum_m table[m, codes[i, m]]. Knows no ids, models or attributes."""

import threading
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from everyitem import quantise
from everyitem.index import door, files, reference
from everyitem.index.core import load_core
from everyitem.types import Floats, Ids, TopK

Codes = NDArray[np.uint8]


class PQIndex:
    """A catalogue of M sub-items per item, searched exactly.

    Item i stands for the vector rotation.T @ concat(codebooks[m, codes[i, m]] for m), and its score is the dot product
    with the query, summed as PQTopK does (arXiv:2408.09992): float32, split 0 to M - 1. Bits depend on the query and
    the item only: not on batch, threads, CPU, or on how the catalogue came to be.

    Searches see one state of the catalogue: `add` and `remove` in other threads take effect between searches.
    """

    def __init__(self, codes_IM: ArrayLike, codebooks_MBd: ArrayLike, *, rotation_DD: ArrayLike | None = None) -> None:
        """Check and keep the arrays; codes are not copied and must not change.

        Args:
            codes_IM: uint8, every code < B; a memory map will do.
            codebooks_MBd: float32, finite; 1 <= M <= 64, 2 <= B <= 256, d = D / M.
            rotation_DD: float32 orthogonal matrix of optimised product quantisation; None means none.

        Raises:
            ValueError: a shape, dtype or value is not as above.

        Cost: reads the codes once; M I bytes resident.
        """
        codebooks, largest = door.finite(codebooks_MBd, "codebooks", 3)
        num_splits, num_sub_items, split_dim = codebooks.shape
        if not (1 <= num_splits <= 64 and 2 <= num_sub_items <= 256 and split_dim >= 1):
            raise ValueError(
                f"codebooks have shape {codebooks.shape}, but (M, B, d) needs 1 <= M <= 64, 2 <= B <= 256 and d >= 1"
            )
        self._core = load_core()
        self._codebooks_MdB = np.ascontiguousarray(codebooks.transpose(0, 2, 1))
        self._largest = largest
        self._rotation_DD = None if rotation_DD is None else self._checked_rotation(rotation_DD)
        self._state: tuple[Codes, door.Bits | None] = (self._checked_codes(codes_IM), None)
        self._writing = threading.Lock()

    @classmethod
    def from_embeddings(
        cls,
        vectors_ID: ArrayLike,
        num_splits: int = 8,
        *,
        num_sub_items: int = 256,
        rotate: bool = False,
        seed: int = 0,
    ) -> Self:
        """Quantise item vectors of any origin; see `everyitem.quantise.product_quantise`."""
        vectors, _ = door.finite(vectors_ID, "vectors", 2)
        parts = quantise.product_quantise(vectors, num_splits, num_sub_items=num_sub_items, rotate=rotate, seed=seed)
        return cls(parts.codes_IM, parts.codebooks_MBd, rotation_DD=parts.rotation_DD)

    @property
    def num_items(self) -> int:
        """Positions in the catalogue, removed ones included."""
        return len(self._state[0])

    @property
    def num_splits(self) -> int:
        """M: sub-items per item."""
        return len(self._codebooks_MdB)

    @property
    def num_sub_items(self) -> int:
        """B: sub-items per split."""
        return int(self._codebooks_MdB.shape[2])

    @property
    def dim(self) -> int:
        """D: length of a query and of an item vector."""
        return self.num_splits * int(self._codebooks_MdB.shape[1])

    @property
    def codes_IM(self) -> Codes:
        """The codes, read-only: uint8 (I, M)."""
        codes = self._state[0].view()
        codes.flags.writeable = False
        return codes

    @property
    def codebooks_MBd(self) -> Floats:
        """The codebooks, a copy: float32 (M, B, d)."""
        return np.ascontiguousarray(self._codebooks_MdB.transpose(0, 2, 1))

    @property
    def rotation_DD(self) -> Floats | None:
        """The rotation that queries go through, or None."""
        return self._rotation_DD

    @property
    def removed_I(self) -> NDArray[np.bool_]:
        """True where an item was removed: bool (I,)."""
        codes_IM, removed = self._state
        return door.removed_mask(removed, len(codes_IM))

    def score_table(self, queries_UD: ArrayLike) -> Floats:
        """What every sub-item adds to a score: the very bits that `top_k` adds up.

        Args:
            queries_UD: (U, D) float32, finite.

        Returns:
            (U, M, B) float32.
        """
        table: Floats = self._core.score_table(self._queries(queries_UD), self._codebooks_MdB)
        return table

    def top_k(
        self,
        query_UD: ArrayLike,
        k: int,
        *,
        allow: ArrayLike | None = None,
        exclude: ArrayLike | None = None,
        algorithm: str | None = None,
        deadline: float | None = None,
        threads: int | None = None,
    ) -> TopK:
        """The k best eligible items for each query, exactly.

        Args:
            query_UD: (U, D) float32, finite.
            k: results per row, 1 <= k; may exceed the catalogue.
            allow: (I,) or (U, I) bool, or packed bits: uint8 (ceil(I / 8),) or (U, ceil(I / 8)) with item i in bit
                i % 8 of byte i // 8. None allows every item.
            exclude: (U, E) positions never to return, padded with -1; any order, duplicates allowed.
            algorithm: "pqtopk" scores every item (arXiv:2408.09992); None takes the fastest there is.
            deadline: seconds; past it the best so far comes back, and `bound` still holds.
            threads: rows are spread over so many; None: over all cores.

        Returns:
            TopK of shape (U, k): score descending, then position ascending; (-1, -inf) past the last eligible item.

        Raises:
            ValueError: an argument is not as above, or scores could overflow float32.

        Cost: O(U M I), about 1.4 ns per row and item at M = 8 on one core.
        """
        if algorithm not in (None, "pqtopk"):
            raise ValueError(f"algorithm is {algorithm!r}, but this release has 'pqtopk', or None for the fastest")
        codes_IM, removed = self._state
        query = self._queries(query_UD)
        found = self._core.pq_top_k(
            query,
            self._codebooks_MdB,
            codes_IM,
            door.count(k, "k"),
            door.allowed(allow, len(query), len(codes_IM)),
            door.excluded(exclude, len(query), len(codes_IM)),
            removed,
            door.seconds(deadline),
            door.num_threads(threads),
        )
        return door.certified(found, len(codes_IM), lambda rows: self._ceilings(query[rows]))

    def scores(self, query_UD: ArrayLike, items_UN: ArrayLike) -> Floats:
        """The scores of given items, removed ones too: the bits that `top_k` would return.

        Args:
            query_UD: (U, D) float32, finite.
            items_UN: (U, N) positions.

        Returns:
            (U, N) float32.
        """
        codes_IM, _ = self._state
        table_UMB = self.score_table(query_UD)
        items = door.item_rows(items_UN, len(table_UMB), len(codes_IM))
        rows = [reference.pq_scores(table[None], codes_IM[row])[0] for table, row in zip(table_UMB, items, strict=True)]
        return np.stack(rows) if rows else np.empty(items.shape, np.float32)

    def vectors(self, positions: ArrayLike) -> Floats:
        """(N, D) float32: the vectors that the codes of these positions stand for."""
        codes_IM, _ = self._state
        codes_NM = codes_IM[door.positions(positions, len(codes_IM))]
        parts_NMd = self._codebooks_MdB[np.arange(self.num_splits), :, codes_NM]
        vectors_ND = parts_NMd.reshape(len(codes_NM), self.dim)
        return vectors_ND if self._rotation_DD is None else self._turned(vectors_ND, self._rotation_DD.T)

    def add(self, *, codes: ArrayLike | None = None, vectors: ArrayLike | None = None) -> Ids:
        """Append items; the positions of all others stay.

        Args:
            codes: (N, M) uint8, every code < B; or
            vectors: (N, D) float32, to be encoded with the codebooks.

        Returns:
            (N,) int32 positions of the new items.

        Raises:
            ValueError: neither or both are given, or they do not fit the index.

        Cost: copies the codes of the catalogue, M I bytes, once per call.
        """
        if vectors is None and codes is not None:
            new_NM = self._checked_codes(codes)
        elif codes is None and vectors is not None:
            new_NM = quantise.encode(door.vectors(vectors, self.dim), self.codebooks_MBd, self._rotation_DD)
        else:
            raise ValueError("add needs codes or vectors: exactly one of them")
        with self._writing:
            codes_IM, removed = self._state
            door.check_room(len(codes_IM) + len(new_NM))
            both = np.concatenate([codes_IM, new_NM])
            self._state = (both, door.grown(removed, len(both)))
        return np.arange(len(both) - len(new_NM), len(both), dtype=np.int32)

    def remove(self, positions: ArrayLike) -> None:
        """Never return these positions again. Other positions stay; removing twice is fine."""
        with self._writing:
            codes_IM, removed = self._state
            gone = door.positions(positions, len(codes_IM))
            self._state = (codes_IM, door.marked(removed, gone, len(codes_IM)))

    def save(self, folder: str | Path) -> Path:
        """Write a new version into the folder and make it current; see `files.save`. `load_index` reads it."""
        codes_IM, removed = self._state
        sections: dict[str, files.Array] = {
            "codes": codes_IM,
            "codebooks": self.codebooks_MBd,
            "removed": door.removed_mask(removed, len(codes_IM)),
        }
        if self._rotation_DD is not None:
            sections["rotation"] = self._rotation_DD
        return files.save(folder, "pq", sections | files.golden(self, self.dim))

    def _queries(self, query_UD: ArrayLike) -> Floats:
        rotation_DD = self._rotation_DD
        if rotation_DD is None:
            return door.queries(query_UD, self.dim, self._largest)
        query = door.queries(query_UD, self.dim, float(np.abs(rotation_DD).max()))
        return door.queries(self._turned(query, rotation_DD), self.dim, self._largest)

    def _turned(self, vectors_ND: Floats, matrix_DD: Floats) -> Floats:
        """Every vector times the matrix, by our own kernel: BLAS would let the bits depend on the batch."""
        turned: Floats = self._core.dense_scores(vectors_ND, np.ascontiguousarray(matrix_DD))
        return turned

    def _ceilings(self, query_UD: Floats) -> Floats:
        """(U,) no item scores more: the best of every split, summed in the order of a score."""
        best_UM = self._core.score_table(query_UD, self._codebooks_MdB).max(axis=2)
        return np.add.accumulate(best_UM, axis=1, dtype=np.float32)[:, -1]

    def _checked_codes(self, codes_IM: ArrayLike) -> Codes:
        codes = np.ascontiguousarray(codes_IM)
        if codes.dtype != np.uint8 or codes.ndim != 2 or codes.shape[1] != self.num_splits:
            raise ValueError(
                f"codes are {codes.dtype} of shape {codes.shape}, but the codebooks ask for uint8 of shape "
                f"(items, {self.num_splits})"
            )
        door.check_room(len(codes))
        largest = int(codes.max(initial=0))
        if largest >= self.num_sub_items:
            raise ValueError(f"codes hold {largest}, but the codebooks have sub-items 0 to {self.num_sub_items - 1}")
        return codes

    def _checked_rotation(self, rotation_DD: ArrayLike) -> Floats:
        rotation, _ = door.finite(rotation_DD, "rotation", 2)
        if rotation.shape != (self.dim, self.dim):
            raise ValueError(f"rotation has shape {rotation.shape}, but this index needs ({self.dim}, {self.dim})")
        return rotation
