"""An index over product-quantised items: score(i) = sum_m table[m, codes[i, m]]. Knows no ids, models or attributes."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from everyitem import quantise
from everyitem.index import arrangement, door, faiss_exchange, files, reference
from everyitem.index.arrangement import Arrangement, Codes
from everyitem.index.core import load_core
from everyitem.index.state import State, part
from everyitem.types import Floats, Ids, TopK

PAPERS = ("pqtopk", "recjpq", "recjpqprune")
ALGORITHMS = (*PAPERS, "bounded_scan", "block_prune")


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
        self._writing = threading.Lock()
        self._state = self._stated((self._checked_codes(codes_IM),), None, None)

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

    @classmethod
    def from_faiss(cls, faiss_index: Any) -> Self:
        """The codes of a faiss IndexPQ, also behind an OPQ or another rotation; see `index.faiss_exchange`."""
        codes_IM, codebooks_MBd, rotation_DD = faiss_exchange.read(faiss_index)
        return cls(codes_IM, codebooks_MBd, rotation_DD=rotation_DD)

    def to_faiss(self) -> Any:
        """A faiss IndexPQ (inner product) with the same codes; see `index.faiss_exchange`."""
        state = self._state
        if state.removed is not None and state.removed.any():
            raise ValueError("a faiss IndexPQ cannot hide items: remove them before quantising, or pass none removed")
        return faiss_exchange.write(state.codes_IM, self.codebooks_MBd, self._rotation_DD)

    @property
    def num_items(self) -> int:
        """Positions in the catalogue, removed ones included."""
        return self._state.num_items

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
        """The codes, read-only: uint8 (I, M). Copied where items were added since the last `compact`."""
        codes = self._state.codes_IM.view()
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
        state = self._state
        return door.removed_mask(state.removed, state.num_items)

    def removed_at(self, positions_UN: Ids) -> NDArray[np.bool_]:
        """(U, N) whether the items at these positions were removed; False for -1."""
        removed = self._state.removed
        if removed is None:
            return np.zeros(positions_UN.shape, bool)
        return (positions_UN >= 0) & door.bits_at(removed[None], np.maximum(positions_UN, 0))

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
        gap_factor: float = 1.0,
        batch_size: int = 8,
        threads: int | None = None,
    ) -> TopK:
        """The k best eligible items for each query, exactly.

        Args:
            query_UD: (U, D) float32, finite.
            k: results per row, 1 <= k; may exceed the catalogue.
            allow: (I,) or (U, I) bool, or packed bits: uint8 (ceil(I / 8),) or (U, ceil(I / 8)) with item i in bit
                i % 8 of byte i // 8. None allows every item.
            exclude: (U, E) positions never to return, padded with -1; any order, duplicates allowed.
            algorithm: None chooses; the answer is the same to the bit. "pqtopk" scores every item (arXiv:2408.09992),
                "recjpq" split by split (arXiv:2312.06165), "recjpqprune" the items of the best sub-items first
                (arXiv:2505.00560). "bounded_scan" looks at every item in bytes and scores what could enter,
                "block_prune" looks only into blocks of items that could hold such an item.
            deadline: seconds; past it the best so far comes back, and `bound` still holds.
            gap_factor: 1 is exact. Below 1 the searches in bytes drop items whose gap to the best conceivable score
                exceeds that share of what would still be safe: faster, and `bound` says what may have been missed.
            batch_size: sub-items that recjpqprune processes between two looks at its bound; the paper's is 8.
            threads: rows are spread over so many; None: over all cores.

        Returns:
            TopK of shape (U, k): score descending, then position ascending; (-1, -inf) past the last eligible item.

        Raises:
            ValueError: an argument is not as above, or scores could overflow float32.

        Cost: at M = 8 on one core, per row and item: pqtopk 1.4 ns, bounded_scan 0.1 to 0.2 ns, block_prune from a
        tenth of that (concentrated queries, structured codes) to the same. The first search may have to arrange the
        catalogue, see `compact`.
        """
        if algorithm not in (None, *ALGORITHMS):
            raise ValueError(f"algorithm is {algorithm!r}, but there are {', '.join(ALGORITHMS)}, or None to choose")
        if not 0 < gap_factor <= 1:
            raise ValueError(f"gap_factor is {gap_factor}, but it must be more than 0 and at most 1 (exact)")
        state = self._state if algorithm in PAPERS else self._arranged()
        query = self._queries(query_UD)
        found = state.catalogue.top_k(
            query,
            door.count(k, "k"),
            door.allowed(allow, len(query), state.num_items),
            door.excluded(exclude, len(query), state.num_items),
            state.removed,
            door.seconds(deadline),
            door.num_threads(threads),
            algorithm or "planned",
            gap_factor,
            door.count(batch_size, "batch_size"),
        )
        return TopK(*found)

    def scores(self, query_UD: ArrayLike, items_UN: ArrayLike) -> Floats:
        """The scores of given items, removed ones too: the bits that `top_k` would return.

        Args:
            query_UD: (U, D) float32, finite.
            items_UN: (U, N) positions.

        Returns:
            (U, N) float32.
        """
        state = self._state
        table_UMB = self.score_table(query_UD)
        codes_UNM = state.codes(door.item_rows(items_UN, len(table_UMB), state.num_items))
        rows = [reference.pq_scores(table[None], codes)[0] for table, codes in zip(table_UMB, codes_UNM, strict=True)]
        return np.stack(rows) if rows else np.empty(codes_UNM.shape[:2], np.float32)

    def vectors(self, positions: ArrayLike) -> Floats:
        """(N, D) float32: the vectors that the codes of these positions stand for."""
        state = self._state
        codes_NM = state.codes(door.positions(positions, state.num_items))
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

        Cost: copies what was added since the last `compact`. Searches scan those items one by one: compact when they
        are more than a few per cent.
        """
        if vectors is None and codes is not None:
            new_NM = self._checked_codes(codes)
        elif codes is None and vectors is not None:
            new_NM = quantise.encode(door.vectors(vectors, self.dim), self.codebooks_MBd, self._rotation_DD)
        else:
            raise ValueError("add needs codes or vectors: exactly one of them")
        with self._writing:
            before = self._state
            door.check_room(before.num_items + len(new_NM))
            base, *tails = before.runs
            tail = np.concatenate([*tails, new_NM])
            runs = (base, tail) if len(base) else (tail,)
            arranged = None
            if before.arranged and len(base):
                arranged = (before.arranged[0], arrangement.in_order(tail))
            added = before.num_items, before.num_items + len(new_NM)
            self._state = self._stated(runs, arranged, door.grown(before.removed, added[1]))
        return np.arange(*added, dtype=np.int32)

    def remove(self, positions: ArrayLike) -> None:
        """Never return these positions again. Other positions stay; removing twice is fine."""
        with self._writing:
            state = self._state
            gone = door.positions(positions, state.num_items)
            self._state = state._replace(removed=door.marked(state.removed, gone, state.num_items))

    def compact(self, queries_UD: ArrayLike | None = None, *, threads: int | None = None) -> None:
        """Lay the catalogue out anew for the fast searches: what was added moves in, what was removed moves out.

        Done by itself before the first search; call it after many changes, from any thread: searches go on meanwhile.

        Args:
            queries_UD: (S, D) queries such as will be asked; some dozens are enough. None: vectors of random items.
            threads: at most; None: all cores.

        Cost: about 0.4 us per item and core from 100,000 items on, less below; M + 4 bytes per item.
        """
        with self._writing:
            before = self._state
            codes_IM = np.ascontiguousarray(before.codes_IM)
        gone = None if before.removed is None else door.removed_mask(before.removed, len(codes_IM))
        query = None if queries_UD is None else self._queries(queries_UD)
        made = arrangement.lay_out(codes_IM, self._codebooks_MdB, gone, query, door.num_threads(threads))
        with self._writing:
            now = self._state
            late = now.codes(np.arange(len(codes_IM), now.num_items))
            runs = (codes_IM, late) if len(late) else (codes_IM,)
            arranged = (made, arrangement.in_order(late)) if len(late) else (made,)
            self._state = self._stated(runs, arranged, now.removed)

    def save(self, folder: str | Path) -> Path:
        """Write a new version into the folder and make it current; see `files.save`. `load_index` reads it."""
        state = self._arranged()
        sections: dict[str, files.Array] = {
            "codes": state.codes_IM,
            "codebooks": self.codebooks_MBd,
            "removed": door.removed_mask(state.removed, state.num_items),
            "arranged": np.array(len(state.runs[0])),  # items; those after them were added since
        }
        if self._rotation_DD is not None:
            sections["rotation"] = self._rotation_DD
        if state.arranged and state.arranged[0].levels:  # else blocks are a copy of the codes, made in no time
            sections |= state.arranged[0].sections()
        return files.save(folder, "pq", sections | files.golden(self, self.dim))

    @classmethod
    def from_sections(cls, sections: Mapping[str, NDArray[Any]], *, verify: bool) -> Self:
        """The index that `save` wrote, from the arrays of its folder; `verify` looks at every position."""
        index = cls(sections["codes"], sections["codebooks"], rotation_DD=sections.get("rotation"))
        base = Arrangement.from_sections(sections)
        if base is None:
            return index
        codes_IM, num_arranged = index._state.codes_IM, int(sections["arranged"])
        if not 0 <= num_arranged <= len(codes_IM):
            raise ValueError(f"arranged is {num_arranged}, but the codes hold {len(codes_IM)} items")
        late = codes_IM[num_arranged:]
        runs = (codes_IM[:num_arranged], late) if len(late) else (codes_IM,)
        if verify:
            base.check(num_arranged, index.num_splits)
        arranged = (base, arrangement.in_order(late)) if len(late) else (base,)
        index._state = index._stated(runs, arranged, None)
        return index

    def _stated(
        self, runs: tuple[Codes, ...], arranged: tuple[Arrangement, ...] | None, removed: door.Bits | None
    ) -> State:
        parts = [(run, None, None, []) for run in runs] if arranged is None else list(map(part, runs, arranged))
        catalogue = self._core.PQCatalogue(self._codebooks_MdB, parts, arrangement.WHOLE_LEVEL)
        return State(runs, arranged, removed, catalogue)

    def _arranged(self) -> State:
        """The present state, laid out for the fast searches."""
        if self._state.arranged is None:
            self.compact()
        return self._state

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
