"""A catalogue in parts: an index for every run of consecutive positions, and one exact answer out of theirs.

    folder/SHARDS.json      which index was cut, where, and the version of every shard
    folder/0000, 0001, ...  ordinary index folders: shard s holds positions starts[s] to starts[s + 1] - 1

Knows no network: who asks the shards is the caller's business (`serve/cluster.py`).
"""

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from everyitem.index import BeamIndex, DenseIndex, ModelIndex, PQIndex, TwoLevelIndex, door, files
from everyitem.types import Floats, Ids, TopK

Additive = PQIndex | DenseIndex
"""What can be cut: an item's score knows of no other item."""

ALIGNED = 8
"""Shards start at multiples of it, so that a byte of a packed filter belongs to one shard."""


class Shards(NamedTuple):
    """A folder of shards, as `save_shards` left it."""

    folder: Path
    of: str
    """The version of the index that was cut, as `files.named` names it."""
    starts: list[int]
    """S + 1 positions, from 0 to the size of the catalogue."""
    versions: list[str]

    def open(self, shard: int, *, verify: bool = True) -> Additive:
        """One shard, memory-mapped; its positions count from 0."""
        return _additive(files.load_index(self.folder / f"{shard:04d}", version=self.versions[shard], verify=verify))


def _additive(index: ModelIndex) -> Additive:
    if isinstance(index, TwoLevelIndex):
        raise ValueError(
            "a two-level index is not cut into shards, as its scores are probabilities among all items; "
            "search it whole, or train pq or dense items"
        )
    if isinstance(index, BeamIndex):
        raise ValueError("semantic ids are not cut into shards: their search is one model's work; search them whole")
    return index


def merge_top_k(parts: Sequence[TopK], starts: Sequence[int], k: int) -> TopK:
    """The k best of a catalogue out of the k best of each of its shards: ids, score bits and bound of the whole index.

    An item among the k best of all is among the k best of its shard. An item outside the merged row was either cut off
    here, so it scores no more than the k-th, or lies outside its shard's row, below that shard's bound: the larger of
    the two is the bound, also where shards were stopped by a deadline. Merging is associative.

    Args:
        parts: one (U, k) answer per shard; positions count from 0 in every shard.
        starts: S + 1 positions.
        k: results per row.

    Returns:
        TopK in the order of every index; `items` are int32, and int64 where the catalogue has more than 2^31 - 1.

    Cost: O(U S k log(S k)).
    """
    none = np.iinfo(np.int64).max
    items = np.hstack([_moved(part.items, start, none) for part, start in zip(parts, starts, strict=False)])
    scores = np.hstack([part.scores for part in parts])
    order = np.lexsort((items, -scores), axis=1)[:, :k]
    items, scores = np.take_along_axis(items, order, 1), np.take_along_axis(scores, order, 1)
    items[items == none] = -1
    bound = np.maximum(scores[:, -1], np.max([part.bound for part in parts], axis=0))
    return TopK(items.astype(_id_type(starts)), scores, bound, np.sum([part.scored for part in parts], axis=0))


def _moved(items_UK: Ids, start: int, none: int) -> NDArray[np.int64]:
    return np.where(items_UK >= 0, items_UK + np.int64(start), none)


def _id_type(starts: Sequence[int]) -> Any:
    return np.int32 if starts[-1] <= door.MAX_ITEMS else np.int64


def cut_filters(
    starts: Sequence[int], num_rows: int, allow: ArrayLike | None = None, exclude: ArrayLike | None = None
) -> Iterator[tuple[door.Bits | None, Ids | None]]:
    """What each shard must be told: (allow, exclude) of the catalogue in the positions of the shard.

    Args:
        starts: S + 1 positions; all but the last are multiples of 8.
        num_rows: U.
        allow, exclude: as `PQIndex.top_k` takes them.

    Raises:
        ValueError: they do not fit the catalogue.
    """
    bits = door.allowed(allow, num_rows, starts[-1])
    excluded = door.excluded(exclude, num_rows, starts[-1])
    for start, stop in pairwise(starts):
        part = None if bits is None else np.ascontiguousarray(bits[:, start // ALIGNED : -(-stop // ALIGNED)])
        yield part, None if excluded is None else _inside(excluded, start, stop)


def _inside(items_UE: NDArray[Any], start: int, stop: int) -> Ids:
    """The positions of one shard, counted from its start, in no more columns than they need; -1 elsewhere."""
    inside_UE = (items_UE >= start) & (items_UE < stop)
    width = int(inside_UE.sum(axis=1).max(initial=0))
    return np.sort(np.where(inside_UE, items_UE - start, -1), axis=1)[:, items_UE.shape[1] - width :].astype(np.int32)


def locate(starts: Sequence[int], positions: NDArray[Any]) -> list[tuple[NDArray[np.bool_], NDArray[Any]]]:
    """For every shard, which of some positions it holds, and where they are in it."""
    shard = np.searchsorted(np.asarray(starts), positions, side="right") - 1
    return [(shard == s, positions[shard == s] - start) for s, start in enumerate(starts[:-1])]


def outline(index: Additive) -> Additive:
    """An index of one or two items with the ceilings of this one: what is kept of a shard that may not answer."""
    if isinstance(index, DenseIndex):
        return DenseIndex(index.corners_2D)
    any_code_1M = np.zeros((1, index.num_splits), np.uint8)
    return PQIndex(any_code_1M, index.codebooks_MBd, rotation_DD=index.rotation_DD)


def unanswered(outlined: Additive, query_UD: ArrayLike, k: int) -> TopK:
    """The answer of a shard that was not heard: no item, and a bound above all that it could have found.

    Above, not at: a row whose k-th score is that bound or more then has the right items too, not only the right scores.
    """
    bound_U = np.nextafter(ceilings(outlined, query_UD), np.float32(np.inf))
    nothing = np.full((len(bound_U), k), -1, np.int32), np.full((len(bound_U), k), -np.inf, np.float32)
    return TopK(*nothing, bound_U, np.zeros(len(bound_U), np.int64))


def ceilings(index: Additive, query_UD: ArrayLike) -> Floats:
    """(U,) no item scores more, whatever its code: the best sub-item of every split, summed in the order of a score."""
    if isinstance(index, DenseIndex):
        return index.ceilings(query_UD)
    highest: Floats = np.add.accumulate(index.score_table(query_UD).max(axis=2), axis=1)[:, -1]
    return highest


def even_starts(num_items: int, num_shards: int) -> list[int]:
    """S + 1 positions that cut a catalogue into shards of nearly the same size, none of them empty.

    Raises:
        ValueError: there are fewer than 8 items per shard.
    """
    if not 1 <= num_shards <= max(1, num_items // ALIGNED):
        raise ValueError(
            f"{num_shards} shards of {num_items:,} items, but a shard holds at least {ALIGNED} items and there is at "
            "least one shard; choose another number"
        )
    inner = np.arange(num_shards) * num_items // num_shards // ALIGNED * ALIGNED
    return [*inner.tolist(), num_items]


def save_shards(index_folder: str | Path, folder: str | Path, num_shards: int, *, version: str | None = None) -> Shards:
    """Cut an index folder into shards, each an index folder of its own; the list of them is written last.

    Args:
        index_folder: what `PQIndex.save` wrote; it stays as it is.
        folder: the shards' folder; made if missing. Shards of an earlier cut stay valid for who has them open.
        num_shards: S.
        version: of the index; None: the current one.

    Raises:
        ValueError: the index is damaged, two-level, or has fewer than 8 items per shard.

    Cost: that of arranging the catalogue (`PQIndex.compact`), in the memory of one shard.
    """
    index = _additive(files.load_index(index_folder, version=version))
    version = version or files.current_version(index_folder)
    starts, folder = even_starts(index.num_items, num_shards), Path(folder)
    versions = []
    for shard, (start, stop) in enumerate(pairwise(starts)):
        versions.append(files.named(piece(index, start, stop).save(folder / f"{shard:04d}")))
    files.killpoint("before-shards")
    content = {"of": version, "starts": starts, "versions": versions}
    files.write_synced(folder / "SHARDS.json.new", (json.dumps(content, indent=1) + "\n").encode())
    (folder / "SHARDS.json.new").replace(folder / "SHARDS.json")
    files.sync(folder)
    return Shards(folder, version, starts, versions)


def read_shards(folder: str | Path) -> Shards:
    """What `save_shards` wrote; the shards themselves are checked when they are opened.

    Raises:
        FileNotFoundError: there are no shards.
        ValueError: their list is damaged.
    """
    path = Path(folder) / "SHARDS.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no shards (no file SHARDS.json); cut an index with save_shards")
    try:
        found = json.loads(path.read_bytes())
        shards = Shards(Path(folder), str(found["of"]), [int(p) for p in found["starts"]], list(found["versions"]))
        ascending = all(a < b and a % ALIGNED == 0 for a, b in pairwise(shards.starts))
        sound = ascending and shards.starts[0] == 0 and len(shards.starts) == len(shards.versions) + 1 > 1
    except (KeyError, IndexError, TypeError, ValueError, RecursionError):
        sound = False
    if not sound:
        raise ValueError(f"{path} is damaged; cut the index again with save_shards")
    return shards


def piece(index: Additive, start: int, stop: int) -> Additive:
    """The items of an index from one position to before another, as an index."""
    made: Additive
    if isinstance(index, DenseIndex):
        made = DenseIndex(index.vectors_ID[start:stop])
    else:
        made = PQIndex(index.codes_IM[start:stop], index.codebooks_MBd, rotation_DD=index.rotation_DD)
    gone = np.flatnonzero(index.removed_I[start:stop])
    if len(gone):
        made.remove(gone)
    return made
