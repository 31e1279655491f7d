"""An index over product-quantised items: score(i) = sum_m table[m, codes[i, m]]. Knows no ids, models or attributes."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from everyitem import quantise
from everyitem.index import arrangement, door, faiss_exchange, files
from everyitem.index.arrangement import Arrangement, Codes
from everyitem.index.core import load_core
from everyitem.index.cost import Clocks, Cost
from everyitem.index.filters import CompiledFilter
from everyitem.index.space import Space, added_up
from everyitem.index.state import State, part, restored
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
        self._space = Space(codebooks_MBd, rotation_DD)
        self._writing = threading.Lock()
        self._clocks = Clocks()
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
        return faiss_exchange.write(state.codes_IM, self.codebooks_MBd, self._space.rotation_DD)

    @property
    def num_items(self) -> int:
        """Positions in the catalogue, removed ones included."""
        return self._state.num_items

    @property
    def num_splits(self) -> int:
        """M: sub-items per item."""
        return len(self._space.codebooks_MdB)

    @property
    def num_sub_items(self) -> int:
        """B: sub-items per split."""
        return int(self._space.codebooks_MdB.shape[2])

    @property
    def dim(self) -> int:
        """D: length of a query and of an item vector."""
        return self._space.dim

    @property
    def codes_IM(self) -> Codes:
        """The codes, read-only: uint8 (I, M). Copied where items were added since the last `compact`."""
        codes = self._state.codes_IM.view()
        codes.flags.writeable = False
        return codes

    @property
    def codebooks_MBd(self) -> Floats:
        """The codebooks, a copy: float32 (M, B, d)."""
        return np.ascontiguousarray(self._space.codebooks_MdB.transpose(0, 2, 1))

    @property
    def rotation_DD(self) -> Floats | None:
        """The rotation that queries go through, or None."""
        return self._space.rotation_DD

    @property
    def layout_bytes(self) -> int:
        """What the layout for the fast searches holds beside the codes; 0 before it was made."""
        parts = self._state.arranged or ()
        return sum(array.nbytes for made in parts for array in made.sections().values())

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
        return self._space.score_table(queries_UD)

    def top_k(
        self,
        query_UD: ArrayLike,
        k: int,
        *,
        allow: ArrayLike | CompiledFilter | None = None,
        exclude: ArrayLike | None = None,
        algorithm: str | None = None,
        deadline: float | None = None,
        gap_factor: float = 1.0,
        batch_size: int = 8,
        threads: int | None = None,
    ) -> TopK:
        """The k best eligible items for each query, exactly.

        Args:
            query_UD: (U, D) float32, finite. Or (U, M, B): what every sub-item adds to a score, computed elsewhere,
                such as the log-probabilities of M parallel semantic-ID heads (RPG):
                `scipy.special.log_softmax(index.score_table(heads) / temperature, axis=2)`.
            k: results per row, 1 <= k; may exceed the catalogue.
            allow: (I,) or (U, I) bool, or packed bits: uint8 (ceil(I / 8),) or (U, ceil(I / 8)) with item i in bit
                i % 8 of byte i // 8; or what `compile_filter` made of one of them. None allows every item.
            exclude: (U, E) positions never to return, padded with -1; any order, duplicates allowed.
            algorithm: None chooses; the answer is the same to the bit. "pqtopk" scores every item (arXiv:2408.09992),
                "recjpq" split by split (arXiv:2312.06165), "recjpqprune" the items of the best sub-items first
                (arXiv:2505.00560). "bounded_scan" looks at every item in bytes and scores what could enter,
                "block_prune" looks only into blocks of items that could hold such an item.
            deadline: seconds; past it the best so far comes back, and `bound` still holds.
            gap_factor: 1 is exact. Below 1 the searches in bytes drop items whose gap to the best conceivable score
                exceeds that share of what would still be safe: faster, and `bound` says what may have been missed.
            batch_size: sub-items that recjpqprune processes between two looks at its bound; the paper's is 8.
            threads: rows are spread over so many, and a row of a large catalogue over those that are left; None: over
                all cores. Only `scored` can depend on it.

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
        compiled = isinstance(allow, CompiledFilter)
        state = self._state if algorithm in PAPERS and not compiled else self._arranged()
        query = self._space.asked(query_UD)
        return TopK(
            *state.catalogue.top_k(
                query,
                door.count(k, "k"),
                *self._filter(allow, len(query), state),
                door.excluded(exclude, len(query), state.num_items),
                state.removed,
                door.seconds(deadline),
                door.num_threads(threads),
                algorithm or "planned",
                gap_factor,
                door.count(batch_size, "batch_size"),
            )
        )

    def compile_filter(self, allow: ArrayLike) -> CompiledFilter:
        """Prepare a filter that many searches will share: they then skip blocks of items with none that is allowed.

        Args:
            allow: (I,) bool or packed bits, as `top_k` takes them.

        Returns:
            What `top_k` and `predict_cost` take as `allow`; it stays true when items are added or removed.

        Raises:
            ValueError: not one row of I items.

        Cost: about 1 ns per item; I / 8 bytes and as much again.
        """
        state = self._arranged()
        bits = door.allowed(allow, 1, state.num_items)
        if bits is None:
            raise ValueError("allow is None, but there is nothing to compile where every item is allowed")
        made = CompiledFilter(bits[0], state.num_items)
        made.for_catalogue(state.catalogue, state.num_items)
        return made

    def predict_cost(self, query_UD: ArrayLike, k: int, *, allow: ArrayLike | CompiledFilter | None = None) -> Cost:
        """What `top_k` will cost for each query on one thread: how many items it looks at, and for how long.

        The items are those of the blocks whose bounds survive a first threshold. The time is a line through searches
        for some sample queries, which are run and timed at the first call for a k. Takes what `top_k` takes.

        Cost: a first threshold and the bounds of all blocks: some 20 us per row at a million items.
        """
        state, k = self._arranged(), door.count(k, "k")
        query = self._space.asked(query_UD)
        items_U = state.catalogue.predict(query, k, *self._filter(allow, len(query), state), state.removed, 1)
        return self._clocks.clock(state, k, self._space.codebooks_MdB).predict(items_U)

    def prune_steps(self, query_UD: ArrayLike, k: int, *, batch_size: int = 8) -> NDArray[np.int64]:
        """(U,) batches of sub-items that recjpqprune processes for each query: the paper's iterations."""
        steps: NDArray[np.int64] = self._state.catalogue.steps(
            self._space.asked(query_UD), door.count(k, "k"), door.count(batch_size, "batch_size"), 1
        )
        return steps

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
        return added_up(table_UMB, state.codes(door.item_rows(items_UN, len(table_UMB), state.num_items)))

    def vectors(self, positions: ArrayLike) -> Floats:
        """(N, D) float32: the vectors that the codes of these positions stand for."""
        state = self._state
        return self._space.vectors(state.codes(door.positions(positions, state.num_items)))

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
            new_NM = quantise.encode(door.vectors(vectors, self.dim), self.codebooks_MBd, self._space.rotation_DD)
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
                arranged = (before.arranged[0], arrangement.in_order(tail, before.arranged[0].recode_MB))
            added = before.num_items, before.num_items + len(new_NM)
            self._state = self._stated(runs, arranged, door.grown(before.removed, added[1]))
        return np.arange(*added, dtype=np.int32)

    def remove(self, positions: ArrayLike) -> None:
        """Never return these positions again. Other positions stay; removing twice is fine."""
        with self._writing:
            state = self._state
            gone = door.positions(positions, state.num_items)
            self._state = state._replace(removed=door.marked(state.removed, gone, state.num_items))

    def restore(self, positions: ArrayLike) -> None:
        """Return removed positions again. The next search lays the catalogue out anew: `compact` moved them out."""
        with self._writing:
            state = self._state
            removed = door.unmarked(state.removed, door.positions(positions, state.num_items))
            if removed is not None and (removed != state.removed).any():
                self._state = self._stated((state.codes_IM,), None, removed)

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
        query = None if queries_UD is None else self._space.queries(queries_UD)
        made = arrangement.lay_out(codes_IM, self._space.codebooks_MdB, gone, query, door.num_threads(threads))
        with self._writing:
            now = self._state
            late = now.codes(np.arange(len(codes_IM), now.num_items))
            runs = (codes_IM, late) if len(late) else (codes_IM,)
            arranged = (made, arrangement.in_order(late, made.recode_MB)) if len(late) else (made,)
            self._state = self._stated(runs, arranged, now.removed)

    def save(self, folder: str | Path) -> Path:
        """Write a new version into the folder and make it current; see `files.save`. `load_index` reads it."""
        sections = self._arranged().sections() | {"codebooks": self.codebooks_MBd}
        if self._space.rotation_DD is not None:
            sections["rotation"] = self._space.rotation_DD
        return files.save(folder, "pq", sections | files.golden(self, self.dim))

    @classmethod
    def from_sections(cls, sections: Mapping[str, NDArray[Any]], *, verify: bool) -> Self:
        """The index that `save` wrote, from the arrays of its folder; `verify` looks at every position."""
        index = cls(sections["codes"], sections["codebooks"], rotation_DD=sections.get("rotation"))
        runs, arranged = restored(sections, index._state.codes_IM, index.num_splits, verify=verify)
        index._state = index._stated(runs, arranged, None)
        return index

    def _stated(
        self, runs: tuple[Codes, ...], arranged: tuple[Arrangement, ...] | None, removed: door.Bits | None
    ) -> State:
        parts = [(run, None, None, []) for run in runs] if arranged is None else list(map(part, runs, arranged))
        renamed = arranged is not None and (arranged[0].recode_MB != np.arange(256)).any()
        recode = arranged[0].recode_MB if arranged and renamed else None
        catalogue = load_core().PQCatalogue(self._space.codebooks_MdB, parts, arrangement.WHOLE_LEVEL, recode)
        return State(runs, arranged, removed, catalogue)

    def _arranged(self) -> State:
        """The present state, laid out for the fast searches."""
        if self._state.arranged is None:
            self.compact()
        return self._state

    def _filter(self, allow: ArrayLike | CompiledFilter | None, num_rows: int, state: State) -> tuple[Any, Any]:
        """Bits by position, and by slot where the filter was compiled."""
        if isinstance(allow, CompiledFilter):
            return allow.for_catalogue(state.catalogue, state.num_items)[1:]
        return door.allowed(allow, num_rows, state.num_items), None

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
