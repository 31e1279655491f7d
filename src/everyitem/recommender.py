"""The one door between the wings: an encoder and an index become something that answers in the user's own ids.

Works without torch. Inside, positions; at this door, ids (str or int64), frames and SQL.
"""

import copy
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from everyitem import explanation, likeness, model_folder
from everyitem.data import catalogue
from everyitem.data.ids import ItemIds
from everyitem.data.interactions import read_log
from everyitem.explanation import Explanation as Explanation
from everyitem.index import BeamIndex, ModelIndex, door, raised
from everyitem.memory import Memory
from everyitem.model.decode import Decoder
from everyitem.model.encode import Encoder, equal_lengths
from everyitem.model_folder import EVENTS as EVENTS
from everyitem.model_folder import Parts
from everyitem.popularity import Popularity
from everyitem.types import Floats, Histories, Ids, TopK


class Answer(NamedTuple):
    """Recommendations, and what had to be decided on the way."""

    frame: pl.DataFrame
    """user_id, item_id, score, rank; users in the order asked, best item first."""
    unknown_ids: int
    """Events whose item the catalogue does not have; they were skipped."""
    fallback: list[Any]
    """Users without a known event: they got the most popular items, scored by their share of training events."""


class Recommender:
    """A trained recommender: histories in, the exact best items out.

    Args:
        encoder: item vectors of a history -> query; a `Decoder` where the index is a `BeamIndex`.
        index: the catalogue; also the source of the vectors of past items.
        items: one row per position: item_id, attributes, and `training_events`.
        metadata: what `recommender.json` holds: settings, versions, protocol, fingerprints.
        memory: what gives a few items a score of their own; None: every item has that of its vector.
    """

    def __init__(
        self,
        encoder: Encoder | Decoder,
        index: ModelIndex,
        items: pl.DataFrame,
        metadata: dict[str, Any],
        memory: Memory | None = None,
    ) -> None:
        self.encoder, self.index, self.metadata, self.memory = encoder, index, metadata, memory
        self._use(items, ItemIds(items["item_id"]))

    def _use(self, items: pl.DataFrame, ids: ItemIds) -> None:
        self.items, self._ids = items, ids
        self.popularity = Popularity(items[EVENTS].to_numpy())

    # positions ------------------------------------------------------------------------------------------------------

    def encode(self, histories: Histories) -> Any:
        """(U, D) queries of non-empty histories of positions; for a `BeamIndex`, prompts that are yet to be read."""
        if isinstance(self.index, BeamIndex):
            assert isinstance(self.encoder, Decoder)
            return self.encoder.prompts(self.index.tokens_IM, histories)
        assert isinstance(self.encoder, Encoder)
        out = np.empty((len(histories), self.index.dim), np.float32)
        for rows, ids in equal_lengths(histories, self.encoder.length, batch=64):
            out[rows] = self.encoder(self.index.vectors(ids.ravel()).reshape(*ids.shape, -1))
        return out

    def rank(
        self,
        histories: Histories,
        k: int,
        *,
        exclude_seen: bool = False,
        allow: NDArray[Any] | None = None,
        threads: int | None = None,
    ) -> TopK:
        """The k best positions for every history of positions; empty ones get the most popular.

        Args:
            histories: U rows, oldest event first.
            k: results per row.
            exclude_seen: leave out the items of the row's history.
            allow: (I,) bool; None allows all.
            threads: of the search; None: all cores.

        Returns:
            TopK in the order of the index; the rows of empty histories score by share of training events.

        Raises:
            ValueError: k below 1.
        """
        k = door.count(k, "k")
        empty = histories.lengths == 0
        if not empty.any():
            seen = histories.padded() if exclude_seen else None
            return self.best(self.encode(histories), histories, k, allow=allow, exclude=seen, threads=threads)
        # every row starts as the popular one; the rows with a history are then overwritten
        popular = self.popularity.top_k(self.index, k, allow=allow)
        top: list[NDArray[Any]] = [np.repeat(part, len(histories), axis=0) for part in popular]
        asked = np.flatnonzero(~empty)
        if len(asked):
            found = self.rank(histories.select(asked), k, exclude_seen=exclude_seen, allow=allow, threads=threads)
            for out, part in zip(top, found, strict=True):
                out[asked] = part
        return TopK._make(top)

    def best(self, query: Any, histories: Histories, k: int, **options: Any) -> TopK:
        """The k best positions for queries of these histories: by vector, and by memory where there is one.

        `options` are those of the index's `top_k`.
        """
        if self.memory is None:
            return self.index.top_k(query, k, **options)
        assert not isinstance(self.index, BeamIndex)
        return raised.top_k(self.index, query, k, *self.memory.remembered(histories), **options)

    # ids ------------------------------------------------------------------------------------------------------------

    def positions(self, ids: pl.Series | list[Any]) -> Ids:
        """Positions of external ids; -1 for an id that the catalogue does not have."""
        return self._ids.positions(ids)

    def positions_in(self, given: pl.Series) -> Ids:
        """Positions here of the distinct item ids of a log, read in the type of this model's ids; -1 for unknown ones.

        Raises ValueError if the log has ids of another type and none of them is in the catalogue.
        """
        return self._ids.positions_in_log(given)

    def recommend(
        self,
        histories: Any,
        k: int = 10,
        *,
        where: str | None = None,
        exclude_seen: bool = True,
        exclude: list[Any] | None = None,
    ) -> Any:
        """The k best items for every history, exactly; always min(k, eligible) of them.

        Args:
            histories: a list of histories (each a list of item ids, oldest first), or a log as `read_log` takes it
                (pandas, polars or pyarrow table, parquet/csv path, log folder) with one history per user.
            k: items per user.
            where: an SQL condition on the columns of `items`, e.g. "price < 50 and in_stock". Null counts as false.
            exclude_seen: leave out what the history holds.
            exclude: item ids that nobody shall get.

        Returns:
            A table of the caller's kind (polars for lists and paths) with user_id, item_id, score, rank. For lists
            user_id is the row number. Warns when ids were unknown (skipped) or a history was empty (popularity).

        Raises:
            ValueError: k below 1, a condition that cannot be evaluated, ids of another type.
        """
        answer = self.answer(histories, k, where=where, exclude_seen=exclude_seen, exclude=exclude)
        if answer.unknown_ids:
            warnings.warn(
                f"{answer.unknown_ids:,} events name items that this model does not have; skipped", stacklevel=2
            )
        if answer.fallback:
            warnings.warn(
                f"{len(answer.fallback):,} users without a known event got the most popular items", stacklevel=2
            )
        return _as_kind_of(answer.frame, histories)

    def answer(
        self,
        histories: Any,
        k: int = 10,
        *,
        where: str | None = None,
        exclude_seen: bool = True,
        exclude: list[Any] | None = None,
    ) -> Answer:
        """Like `recommend`, with the counts of what was skipped instead of warnings; always a polars frame."""
        user_ids, rows, unknown = self._histories(histories)
        allow = self._allow(where, exclude)
        top = self.rank(rows, min(k, len(self.items)), exclude_seen=exclude_seen, allow=allow)
        return Answer(self.table(user_ids, top), unknown, user_ids[np.flatnonzero(rows.lengths == 0)].to_list())

    def table(self, user_ids: pl.Series, top: TopK) -> pl.DataFrame:
        """A top-K in the user's own ids: user_id, item_id, score, rank."""
        found = top.items >= 0
        user, column = np.nonzero(found)  # series are indexed, as `gather` plans a query for it: three times as long
        return pl.DataFrame(
            {
                "user_id": user_ids[user],
                "item_id": self.items["item_id"][top.items[found]],
                "score": top.scores[found],
                "rank": (column + 1).astype(np.int32),
            }
        )

    def parse_ids(self, texts: list[str]) -> list[Any]:
        """Ids typed by a person, in the type of this model's ids.

        Raises:
            ValueError: the model's ids are integers and a text is not one.
        """
        return self._ids.parse(texts)

    def _histories(self, source: Any) -> tuple[pl.Series, Histories, int]:
        if isinstance(source, list | tuple):
            if any(not isinstance(row, list | tuple) for row in source):
                raise ValueError("histories must be a list of lists of item ids, e.g. [['a', 'b']] for one user")
            found = self.positions([item for row in source for item in row])
            stops = np.cumsum([len(row) for row in source], dtype=np.int64)
            starts = stops - np.array([len(row) for row in source], np.int64)
            rows, user_ids = (
                Histories(np.arange(len(found), dtype=np.int32), starts, stops),
                pl.Series(np.arange(len(source))),
            )
        else:
            log = read_log(source)
            found, rows, user_ids = self.positions_in(log.items["item_id"]), log.histories, log.user_ids
        known = rows.translate(found)
        return user_ids, known, int(rows.lengths.sum() - known.lengths.sum())

    def _allow(self, where: str | None, exclude: list[Any] | None) -> NDArray[np.bool_] | None:
        allow = None if where is None else self.matching(where)
        if exclude:
            allow = np.ones(len(self.items), bool) if allow is None else allow
            positions = self.positions(exclude)
            allow[positions[positions >= 0]] = False
        return allow

    def matching(self, where: str) -> NDArray[np.bool_]:
        """(I,) bool: the items for which an SQL condition is true; see `data.catalogue.matching`."""
        return catalogue.matching(self.items, where)

    def explain(self, history: list[Any], item_id: Any) -> Explanation:
        """Why `item_id` scores as it does after `history`: its sub-items' shares, and the history's nearest items.

        Raises:
            ValueError: the item, or every event of the history, is unknown.
        """
        position = self._known(item_id)
        _, rows, _ = self._histories([history])
        if not len(rows[0]):
            raise ValueError("no event of the history is known to this model, so there is no score to explain")
        return self.explained(self.encode(rows), rows, position)

    def explained(self, query: Any, rows: Histories, position: int) -> Explanation:
        """What `explain` says, for the query that `encode` gives of one history of positions."""
        score = self.index.scores(query, np.array([[position]], np.int32))[0, 0]
        splits = explanation.splits(self.index, query, position, score)
        if self.memory is not None:
            share = self._share_of_memory(query, rows, position)
            score += share
            row = pl.DataFrame({"score": [share]}, schema={"score": pl.Float32})
            splits = pl.concat([splits, row], how="diagonal_relaxed")
        past = np.unique(rows[0])
        similarity = likeness.similarity(self.index, past, position)
        nearest = pl.DataFrame({"item_id": self.items["item_id"].gather(past), "similarity": similarity})
        nearest = nearest.sort("similarity", descending=True, maintain_order=True)
        return Explanation(float(score), splits, nearest)

    def _share_of_memory(self, query: Floats, rows: Histories, position: int) -> np.float32:
        assert self.memory is not None
        assert not isinstance(self.index, BeamIndex)
        remembered = self.memory.remembered(rows)
        shares = raised.share(self.index, query, *remembered)[remembered[0] == position]
        return np.float32(shares[0] if len(shares) else 0)

    def similar_items(self, item_id: Any, k: int = 10) -> pl.DataFrame:
        """The k items with the largest inner product with the vector of `item_id`: item_id, score, rank.

        Where items are semantic ids: those whose id has most in common with that of `item_id`, from its beginning.
        """
        top = likeness.similar_items(self.index, self._known(item_id), min(k, len(self.items)))
        return self.table(pl.Series([item_id]), top).drop("user_id")

    def _known(self, item_id: Any) -> int:
        position = int(self.positions([item_id])[0])
        if position < 0:
            raise ValueError(f"item {item_id!r} is not in the catalogue of this model")
        return position

    # changes --------------------------------------------------------------------------------------------------------

    def twin(self) -> "Recommender":
        """One that begins as this one and changes alone, as both replace what they share: costs nothing."""
        twin = copy.copy(self)
        twin.index = copy.copy(self.index)
        return twin

    def add_items(self, items: pl.DataFrame, *, like: list[list[Any]]) -> Ids:
        """Add items without training; they can be recommended at once.

        A new item is placed among the known items it is `like`, for example of its category or brand: in the direction
        of their mean vector, as long as they are on average. A semantic id cannot be averaged: it gets the first one's.

        Args:
            items: item_id and any of the attributes; missing ones become null.
            like: for every new item the ids of known items, at least one.

        Returns:
            Positions of the new items.

        Raises:
            ValueError: an id that exists already or twice, an attribute of another type, or `like` names no known item;
                nothing has changed then.
        """
        extended = catalogue.extended(self.items, items, given={EVENTS: 0})
        models = [self.positions(row) for row in like]
        if not models or len(models) != len(items) or any(not (model >= 0).any() for model in models):
            raise ValueError("give one new item or more, and for every one at least one known item that it is like")
        added = likeness.add_like(self.index, [model[model >= 0] for model in models])
        self._use(extended, self._ids.extended(extended["item_id"]))
        return added

    def update_items(self, items: pl.DataFrame) -> None:
        """Give known items new attributes (columns of `items` beside item_id); removed ones among them are back.

        Raises ValueError as `add_items` does, with nothing changed.
        """
        updated = catalogue.updated(self.items, items, kept=[EVENTS])
        self.index.restore([self._known(item_id) for item_id in items["item_id"]])
        self._use(updated, self._ids)

    def remove_items(self, item_ids: list[Any]) -> None:
        """Never recommend these again; histories may still hold them. Unknown ids raise ValueError."""
        self.index.remove(np.array([self._known(item_id) for item_id in item_ids], np.int32))

    # files ----------------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Write catalogue and index to a model folder that already holds the encoder (see `fit`), all or nothing.

        Killed at any time, it leaves the model that was there or this one (`model_folder.py` says how).

        Raises:
            BlockingIOError: another process is saving to the folder.
            ValueError: another process has changed the folder since this model was loaded from it.
        """
        self.metadata = model_folder.write(Path(folder), Parts(self.index, self.items, self.metadata, self.memory))


def load(folder: str | Path) -> Recommender:
    """Open a model folder. Needs no torch; the index is memory-mapped and its checksums are verified.

    Raises:
        FileNotFoundError: no model there.
        ValueError: a part is damaged or does not belong to the others.
        ModuleNotFoundError: its encoder computes in bf16, and OpenVINO is not installed.
    """
    found = model_folder.read(Path(folder))
    metadata = found.metadata
    path, length = Path(folder) / model_folder.encoder_file(metadata), metadata["history_length"]
    written, precision = isinstance(found.index, BeamIndex), metadata.get(model_folder.PRECISION, "float32")
    encoder: Encoder | Decoder = Decoder(path, length) if written else Encoder(path, length, precision)
    return Recommender(encoder, found.index, found.items, found.metadata, found.memory)


def _as_kind_of(frame: pl.DataFrame, source: Any) -> Any:
    kind = type(source).__module__.split(".")[0]
    if kind == "pandas":
        return frame.to_pandas()
    return frame.to_arrow() if kind == "pyarrow" else frame
