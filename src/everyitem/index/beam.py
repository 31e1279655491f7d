"""An index over token strings: a language model says which token is likely next, a trie which tokens lead to items.

The model is the caller's, behind two functions (`Prompts`). Knows no torch, no text and no vectors.
"""

import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from everyitem.index import door, files
from everyitem.index.prefixes import Counts, Filters, Search, kept_counts
from everyitem.index.prompts import FormulaPrompts, Prompts
from everyitem.index.trie import Trie
from everyitem.types import Floats, Ids, TopK


class _State(NamedTuple):
    """What one search sees."""

    trie: Trie
    removed: door.Bits | None
    kept: Counts | None


class BeamIndex:
    """Items that are strings of M tokens (semantic ids): score(i) = sum_m log p(token m | prompt, tokens before m).

    Beam search over a trie of valid items (TIGER, arXiv:2305.05065; LC-Rec, arXiv:2311.09049), with no length penalty:
    every item has M tokens. `exact=True` goes on with the prefixes that the beam cut, best first, until none of them
    could lead to a better item. Log-probabilities are at most 0, and in float32 a sum with a number below 0 never
    grows, so a prefix bounds all items below it without slack.

    Searches see one state of the catalogue: `add` and `remove` in other threads take effect between searches.
    """

    def __init__(self, tokens_IM: ArrayLike, *, width: int = 20, exact: bool = False) -> None:
        """Build the trie.

        Args:
            tokens_IM: whole numbers from 0 to V - 1. Items may have the same string: then they score the same.
            width: prefixes that the model reads at a time: those kept at every level, and in the exact search those
                of a round.
            exact: prove that no better item exists, whatever number of model calls that takes.

        Raises:
            ValueError: not a matrix of whole numbers, no columns, a negative token, or width below 1.

        Cost: one sort of the catalogue; 4 (M + 1) I bytes and 28 bytes per distinct prefix resident.
        """
        self.width, self.exact = door.count(width, "width"), bool(exact)
        self._state = _State(Trie.of(_checked_tokens(tokens_IM)), None, None)
        self._writing = threading.Lock()

    @property
    def num_items(self) -> int:
        """Positions in the catalogue, removed ones included."""
        return len(self._state.trie.order)

    @property
    def tokens_IM(self) -> Ids:
        """The strings, read-only: int32 (I, M)."""
        tokens = self._state.trie.tokens_IM.view()
        tokens.flags.writeable = False
        return tokens

    @property
    def removed_I(self) -> NDArray[np.bool_]:
        """True where an item was removed: bool (I,)."""
        trie, removed, _ = self._state
        return door.removed_mask(removed, len(trie.order))

    def removed_at(self, positions_UN: Ids) -> NDArray[np.bool_]:
        """(U, N) whether the items at these positions were removed; False for -1."""
        removed = self._state.removed
        if removed is None:
            return np.zeros(positions_UN.shape, bool)
        return (positions_UN >= 0) & door.bits_at(removed[None], np.maximum(positions_UN, 0))

    def top_k(
        self,
        query: Prompts,
        k: int,
        *,
        allow: ArrayLike | None = None,
        exclude: ArrayLike | None = None,
        deadline: float | None = None,
        threads: int | None = None,
    ) -> TopK:
        """The k best eligible items after each prompt: as far as the beam saw, or exactly.

        Filters act on prefixes: the beam only holds prefixes of eligible items. If fewer than k were found although
        more are eligible, the search goes on with the best prefixes that it cut, so a row is never short for lack of
        width.

        Args:
            query: U prompts.
            k: results per row.
            allow: (I,) or (U, I) bool, or packed bits; None: every item.
            exclude: (U, E) positions padded with -1.
            deadline: seconds, looked at between calls of the model.
            threads: taken for the sake of callers that have several kinds of index; the time goes into the model, whose
                threads are its own.

        Returns:
            TopK: score descending, then position ascending. `bound` is the best of the prefixes that were not followed:
            a row with `bound <= scores[:, -1]` is proved to have no better item outside, whether the search was
            exact or not.

        Raises:
            ValueError: an argument out of range, or the model returned a log-probability above 0, NaN or -inf for a
                token that leads to an item, or has not enough tokens.

        Cost: M - 1 calls of the model with `width` prefixes of every row; exact, one more for each `width` prefixes
        that are at least as likely as the k-th item, and the model keeps what it read of all of them: ask few rows at a
        time where the model is unsure.
        """
        trie, removed, kept = self._state
        num_rows, k = len(query), door.count(k, "k")
        allowed = door.allowed(allow, num_rows, len(trie.order))
        filters = Filters(trie, removed, kept, allowed, door.excluded(exclude, num_rows, len(trie.order)))
        ends = time.monotonic() + door.seconds(deadline)
        out = TopK(
            np.full((num_rows, k), -1, np.int32),
            np.full((num_rows, k), -np.inf, np.float32),
            np.zeros(num_rows, np.float32),
            np.zeros(num_rows, np.int64),
        )
        if time.monotonic() >= ends or not num_rows:
            return out
        for rows, log_probs_UV, state in query.read():
            searches = [Search(trie, filters.of_row(row), k, self.width, self.exact) for row in rows]
            self._search(query, searches, log_probs_UV, state, ends)
            for row, search in zip(rows, searches, strict=True):
                search.write(out, row)
            if time.monotonic() >= ends:
                break
        return out

    def _search(self, query: Prompts, searches: list[Search], first_UV: Floats, state: Any, ends: float) -> None:
        """Calls of the model until every row's search is over, or time is."""
        for search, log_probs_V in zip(searches, first_UV, strict=True):
            search.grow(np.zeros(1, np.int64), np.zeros(1, np.float32), np.full(1, -1), log_probs_V[None])
        num_nodes = 0
        while time.monotonic() < ends:
            chosen = [search.choose() for search in searches]
            widest = max(len(nodes) for nodes, _, _ in chosen)
            if widest == 0:
                break
            parents_UN = np.full((len(searches), widest), -1, np.int64)
            tokens_UN = np.zeros((len(searches), widest), np.int64)
            for row, (nodes, _, parents) in enumerate(chosen):
                parents_UN[row, : len(nodes)] = parents
                tokens_UN[row, : len(nodes)] = searches[row].trie.token[nodes]
            log_probs_UNV, state = query.step(state, parents_UN, tokens_UN)
            for search, (nodes, scores, _), log_probs_NV in zip(searches, chosen, log_probs_UNV, strict=True):
                search.grow(nodes, scores, num_nodes + np.arange(len(nodes)), log_probs_NV[: len(nodes)])
            num_nodes += widest

    def scores(self, query: Prompts, items_UN: ArrayLike) -> Floats:
        """The scores of given items, removed ones too: the bits that `top_k` would return if the model is exact.

        A model whose last bits depend on what it computes together (BLAS) gives them to a few ulp.

        Args:
            query: U prompts.
            items_UN: (U, N) positions.

        Returns:
            (U, N) float32.

        Cost: M - 1 calls of the model with N prefixes of every row.
        """
        parts_UNM = self.token_scores(query, items_UN)
        # as in a search the sum begins with 0, which makes a difference to a score of -0.0
        scores: Floats = np.float32(0) + np.add.accumulate(parts_UNM, axis=2)[..., -1]
        return scores

    def token_scores(self, query: Prompts, items_UN: ArrayLike) -> Floats:
        """(U, N, M) what every token adds to the scores of given items: its log-probability after those before it."""
        trie = self._state.trie
        items = door.item_rows(items_UN, len(query), len(trie.order))
        out = np.empty((*items.shape, trie.num_levels), np.float32)
        for rows, log_probs_UV, state in query.read():
            tokens_UNM = trie.tokens_IM[items[rows]].astype(np.int64)
            num_rows, num_columns = tokens_UNM.shape[:2]
            parents_UN = np.full((num_rows, num_columns), -1, np.int64)
            log_probs_UNV = np.repeat(log_probs_UV[:, None], num_columns, axis=1)
            for m in range(trie.num_levels):
                if m:
                    log_probs_UNV, state = query.step(state, parents_UN, tokens_UNM[..., m - 1])
                    parents_UN = np.tile((m - 1) * num_columns + np.arange(num_columns), (num_rows, 1))
                out[rows, :, m] = np.take_along_axis(log_probs_UNV, tokens_UNM[..., m, None], axis=2)[..., 0]
        return out

    def shared_tokens(self, position: int) -> NDArray[np.int64]:
        """(I,) how many leading tokens every item has in common with this one: M for itself."""
        trie = self._state.trie
        (asked,) = door.positions([position], len(trie.order))
        same_IM = trie.tokens_IM == trie.tokens_IM[asked]
        shared: NDArray[np.int64] = np.logical_and.accumulate(same_IM, axis=1).sum(axis=1)
        return shared

    def add(self, *, tokens: ArrayLike) -> Ids:
        """Append items; the positions of all others stay.

        Args:
            tokens: (N, M) whole numbers that the model knows as tokens; strings of other items are allowed.

        Returns:
            (N,) int32 positions of the new items.

        Cost: sorts the catalogue once per call.
        """
        new_NM = _checked_tokens(tokens)
        with self._writing:
            trie, removed, _ = self._state
            if new_NM.shape[1] != trie.num_levels:
                raise ValueError(f"tokens have shape {new_NM.shape}, but this index needs (items, {trie.num_levels})")
            both = np.concatenate([trie.tokens_IM, new_NM])
            door.check_room(len(both))
            self._state = _state(Trie.of(both), door.grown(removed, len(both)))
        return np.arange(len(both) - len(new_NM), len(both), dtype=np.int32)

    def remove(self, positions: ArrayLike) -> None:
        """Never return these positions again. Other positions stay; removing twice is fine."""
        with self._writing:
            trie, removed, _ = self._state
            gone = door.positions(positions, len(trie.order))
            self._state = _state(trie, door.marked(removed, gone, len(trie.order)))

    def restore(self, positions: ArrayLike) -> None:
        """Take back `remove`: these positions may be returned again. Restoring what was not removed is fine."""
        with self._writing:
            trie, removed, _ = self._state
            back = door.positions(positions, len(trie.order))
            self._state = _state(trie, door.unmarked(removed, back))

    def save(self, folder: str | Path) -> Path:
        """Write a new version into the folder and make it current; see `files.save`. `load_index` reads it.

        The language model is not part of it. The golden query is a formula in its place.
        """
        trie, removed, _ = self._state
        sections: dict[str, NDArray[Any]] = {
            "tokens": trie.tokens_IM,
            "removed": door.removed_mask(removed, len(trie.order)),
            "width": np.array(self.width),
            "exact": np.array(self.exact),
        }
        top = self.golden()
        return files.save(folder, "beam", sections | {"golden_items": top.items, "golden_scores": top.scores})

    def golden(self) -> TopK:
        """What this index answers to a formula in place of a model: always the bits recorded when it was saved."""
        return self.top_k(FormulaPrompts(int(self.tokens_IM.max(initial=0)) + 1), files.GOLDEN_K)


def _state(trie: Trie, removed: door.Bits | None) -> _State:
    return _State(trie, removed, None if removed is None else kept_counts(trie, removed))


def _checked_tokens(tokens_IM: ArrayLike) -> Ids:
    array = np.asarray(tokens_IM)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.integer) or array.shape[1] == 0:
        raise ValueError(
            f"tokens are {array.dtype} of shape {array.shape}, but whole numbers of shape (items, tokens per item) "
            "are needed"
        )
    door.check_room(len(array))
    if array.min(initial=0) < 0 or array.max(initial=0) >= door.MAX_ITEMS:
        raise ValueError(f"tokens reach from {array.min()} to {array.max()}, allowed: 0 to {door.MAX_ITEMS - 1}")
    return np.ascontiguousarray(array, np.int32)
