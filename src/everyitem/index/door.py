"""What every index checks once before it searches: queries, k, filters, deadline, threads. Knows no kind of index."""

import math
import operator
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from everyitem.types import Floats, Ids, TopK

Bits = NDArray[np.uint8]
Found = tuple[Ids, Floats, Floats, NDArray[np.int64]]

MAX_ITEMS = 2**31 - 1
LARGEST = float(np.finfo(np.float32).max)


def finite(values: ArrayLike, name: str, ndim: int) -> tuple[Floats, float]:
    """The values as contiguous float32, and the largest magnitude among them."""
    array = np.asarray(values)
    if array.ndim != ndim or array.dtype.kind not in "fiu":
        raise ValueError(
            f"{name}: got {array.dtype} of shape {array.shape}, but numbers in {ndim} dimensions are needed"
        )
    if array.dtype == np.float32:
        array = np.ascontiguousarray(array)
    else:
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinity, and is refused below
            array = np.ascontiguousarray(array, np.float32)
    largest = max(float(array.max(initial=0.0)), -float(array.min(initial=0.0)))
    if not math.isfinite(largest):
        raise ValueError(f"{name}: got NaN or infinity (as float32), but every value must be finite")
    return array, largest


def queries(query_UD: ArrayLike, dim: int, largest_value: float) -> Floats:
    """(U, D) float32 queries whose scores cannot overflow, given the largest magnitude on the catalogue's side."""
    query, largest = finite(query_UD, "the query", 2)
    if query.shape[1] != dim:
        raise ValueError(f"the query has shape {query.shape}, but this index needs (rows, {dim})")
    if largest * largest_value * dim > LARGEST / 4:  # the gap between two scores must fit as well
        raise ValueError(
            f"scores could overflow float32: queries reach {largest:.3g}, the catalogue {largest_value:.3g}, "
            f"at {dim} dimensions; scale either of them down"
        )
    return query


def tables(table_UMB: ArrayLike, num_splits: int, num_sub_items: int) -> Floats:
    """(U, M, B) float32 score tables whose sums cannot overflow."""
    table, largest = finite(table_UMB, "the score table", 3)
    if table.shape[1:] != (num_splits, num_sub_items):
        raise ValueError(
            f"the score table has shape {table.shape}, but this index needs (rows, {num_splits}, {num_sub_items})"
        )
    if largest * num_splits > LARGEST / 4:
        raise ValueError(f"scores could overflow float32: the table reaches {largest:.3g}; scale it down")
    return table


def vectors(vectors_ND: ArrayLike, dim: int) -> Floats:
    """(N, D) float32 item vectors that fit the index."""
    array, _ = finite(vectors_ND, "vectors", 2)
    if array.shape[1] != dim:
        raise ValueError(f"vectors have shape {array.shape}, but this index needs (items, {dim})")
    return array


def count(value: int, name: str) -> int:
    """A whole number >= 1 that fits 32 bits."""
    number = operator.index(value)
    if not 1 <= number <= MAX_ITEMS:
        raise ValueError(f"{name} is {number}, but it must be at least 1 and at most {MAX_ITEMS}")
    return number


def num_threads(threads: int | None) -> int:
    """The threads to use; None: one for every core that this process may use."""
    return len(os.sched_getaffinity(0)) if threads is None else count(threads, "threads")


def seconds(deadline: float | None) -> float:
    """Seconds until the search must stop; None: never."""
    if deadline is None:
        return math.inf
    if not deadline >= 0:
        raise ValueError(f"deadline is {deadline}, but it is a number of seconds >= 0, or None for no deadline")
    return float(deadline)


def allowed(allow: ArrayLike | None, num_rows: int, num_items: int) -> Bits | None:
    """(1 or U, ceil(I / 8)) packed bits, position i in bit i % 8 of byte i // 8; None: every item."""
    if allow is None:
        return None
    array = np.atleast_2d(np.asarray(allow))
    num_bytes = (num_items + 7) // 8
    widths = {np.dtype(bool): num_items, np.dtype(np.uint8): num_bytes}
    if array.ndim != 2 or array.shape[1] != widths.get(array.dtype) or len(array) not in (1, num_rows):
        raise ValueError(
            f"allow is {array.dtype} of shape {np.shape(allow)}, but it must be bool of shape ({num_items},) or "
            f"({num_rows}, {num_items}), or packed uint8 (np.packbits, bitorder='little') of shape ({num_bytes},) or "
            f"({num_rows}, {num_bytes})"
        )
    return np.ascontiguousarray(array if array.dtype == np.uint8 else np.packbits(array, axis=1, bitorder="little"))


def excluded(exclude: ArrayLike | None, num_rows: int, num_items: int) -> Ids | None:
    """(U, E) int32 (int64 beyond 2^31 - 1 items), every row ascending, -1 first; None: nothing is excluded."""
    if exclude is None:
        return None
    array = np.asarray(exclude)
    if array.ndim != 2 or len(array) != num_rows or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"exclude is {array.dtype} of shape {array.shape}, but it must be int32 of shape ({num_rows}, anything), "
            "padded with -1"
        )
    check_range(array, -1, num_items, "exclude")
    return np.sort(array, axis=1).astype(np.int32 if num_items <= MAX_ITEMS else np.int64)


def positions(values: ArrayLike, num_items: int) -> NDArray[np.int64]:
    """(N,) positions inside the catalogue."""
    array = np.atleast_1d(np.asarray(values))
    if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise ValueError(f"positions are {array.dtype} of shape {array.shape}, but a list of integers is needed")
    check_range(array, 0, num_items, "positions")
    return array.astype(np.int64)


def item_rows(items_UN: ArrayLike, num_rows: int, num_items: int) -> NDArray[np.int64]:
    """(U, N) positions inside the catalogue, one row per query."""
    array = np.asarray(items_UN)
    if array.ndim != 2 or len(array) != num_rows or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"items are {array.dtype} of shape {array.shape}, but integers of shape ({num_rows}, any) are needed"
        )
    check_range(array, 0, num_items, "items")
    return array.astype(np.int64)


def check_room(num_items: int) -> None:
    """Raise if positions would not fit int32."""
    if num_items > MAX_ITEMS:
        raise ValueError(f"{num_items} items, but positions are int32: at most {MAX_ITEMS} per index; use shards")


def check_range(values: NDArray[Any], low: int, num_items: int, name: str) -> None:
    """Raise unless low <= value < num_items everywhere."""
    outside = values[(values < low) | (values >= num_items)]
    if outside.size:
        raise ValueError(f"{name} holds {outside[0]}, but this index has positions 0 to {num_items - 1}")


def removed_mask(removed: Bits | None, num_items: int) -> NDArray[np.bool_]:
    """(I,) True where an item was removed."""
    if removed is None:
        return np.zeros(num_items, bool)
    return np.unpackbits(removed, count=num_items, bitorder="little").astype(bool)


def bits_at(bits: Bits, positions_UN: Ids) -> NDArray[np.bool_]:
    """(U, N) whether the bit of every position is set, in the only row of bits or in a row's own."""
    rows = np.arange(len(positions_UN))[:, None] if len(bits) > 1 else 0
    found: NDArray[np.bool_] = (bits[rows, positions_UN >> 3] >> (positions_UN & 7) & 1).astype(bool)
    return found


def grown(removed: Bits | None, num_items: int) -> Bits | None:
    """Tombstones for a catalogue that now has `num_items` positions."""
    return None if removed is None else np.pad(removed, (0, (num_items + 7) // 8 - len(removed)))


def marked(removed: Bits | None, gone: NDArray[np.int64], num_items: int) -> Bits:
    """A copy of the tombstones with these positions marked."""
    bits = np.zeros((num_items + 7) // 8, np.uint8) if removed is None else removed.copy()
    np.bitwise_or.at(bits, gone >> 3, (1 << (gone & 7)).astype(np.uint8))
    return bits


def unmarked(removed: Bits | None, back: NDArray[np.int64]) -> Bits | None:
    """A copy of the tombstones without these positions."""
    if removed is None:
        return None
    bits = removed.copy()
    np.bitwise_and.at(bits, back >> 3, ~(1 << (back & 7)).astype(np.uint8))
    return bits


def certified(found: Found, num_items: int, ceilings: Callable[[NDArray[np.bool_]], Floats]) -> TopK:
    """Add the bound: the last score of a finished row, the ceiling of all scores for a row that the deadline stopped.

    A short row ends in -inf, which is its bound as well: nothing eligible is left outside.
    """
    items, scores, bound, scored = found
    stopped = scored < num_items
    if stopped.any():
        bound[stopped] = ceilings(stopped)
    return TopK(items, scores, bound, scored)
