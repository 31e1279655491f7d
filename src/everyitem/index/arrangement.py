"""Codes laid out for the fast searches: 64 items to a block, similar items together, bounds above them.

A block keeps its codes split by split, so one instruction looks up 64 items. Blocks are ordered by recursive bisection
along the splits that lower the bounds of sample queries most; above them stand levels of nodes, 64 to a node, each
with one byte per split that names a range of codes covering all below. Bounding a level is then the same scan as
scoring items. `native/arrange.cpp` builds it; knows no ids, queries or files.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from everyitem.index.core import load_core
from everyitem.index.sub_items import as_they_are, best_codes, renamed
from everyitem.types import Floats, Ids

Codes = NDArray[np.uint8]

BLOCK = 64
PRUNED_FROM = 100_000
"""Items from which bounds above blocks pay; below, scanning every block is as fast (docs/results.md)."""
NUM_SAMPLES = 64
TOP_NODES = 4096
"""No level is put above one of so few nodes."""
WHOLE_LEVEL = 1 << 17
"""Most nodes of a level that a search bounds all, instead of coming to them from above."""


class Level(NamedTuple):
    """Covers of the nodes of one height: node n takes, in split m, the codes low[m, c] to high[m, c], c = its code."""

    codes: Codes
    """(ceil(nodes / 64), M, 64)"""
    low: Codes
    """(M, 256)"""
    high: Codes
    """(M, 256)"""


class Arrangement(NamedTuple):
    """The codes of a catalogue, or of a part of it, in blocks."""

    blocks: Codes
    """(ceil(S / 64), M, 64) for S slots; the last block repeats its last item."""
    positions_S: Ids | None
    """The item of every slot, counted from the first of the part; None: slot s holds item s."""
    levels: list[Level]
    """Blocks, nodes of 64 blocks, and so on; empty: nothing is bounded."""
    recode_MB: Codes
    """(M, 256) what blocks call a sub-item: sub-items that are asked for together are neighbours."""

    def sections(self) -> dict[str, NDArray[Any]]:
        """Plain arrays by name, for a file."""
        named: dict[str, NDArray[Any]] = {"blocks": self.blocks, "recode": self.recode_MB}
        if self.positions_S is not None:
            named["positions"] = self.positions_S
        for height, level in enumerate(self.levels):
            named |= {f"level{height}_{name}": array for name, array in level._asdict().items()}
        return named

    @classmethod
    def from_sections(cls, sections: Mapping[str, NDArray[Any]]) -> Self | None:
        """The inverse of `sections`; None where there are none."""
        if "blocks" not in sections:
            return None
        levels: list[Level] = []
        while (name := f"level{len(levels)}_") + "codes" in sections:
            levels.append(Level(*(sections[name + field] for field in Level._fields)))
        recode_MB = sections.get("recode", as_they_are(sections["blocks"].shape[1]))  # written since 0.1
        return cls(sections["blocks"], sections.get("positions"), levels, recode_MB)

    def check(self, num_items: int, num_splits: int) -> None:
        """Raise ValueError unless every array has its type and shape and every slot an item of its own.

        Cost: reads the positions once.
        """
        slots = num_items if self.positions_S is None else len(self.positions_S)
        nodes = slots
        for codes, name in [(self.blocks, "blocks"), *((level.codes, "a level's codes") for level in self.levels)]:
            nodes = -(-nodes // BLOCK)
            _require(codes, np.uint8, (nodes, num_splits, BLOCK), name)
        for level in self.levels:
            _require(level.low, np.uint8, (num_splits, 256), "low")
            _require(level.high, np.uint8, (num_splits, 256), "high")
        _require(self.recode_MB, np.uint8, (num_splits, 256), "recode")
        if (np.sort(self.recode_MB, axis=1) != np.arange(256)).any():
            raise ValueError("recode of the arrangement calls two sub-items the same")
        if self.positions_S is None:
            return
        _require(self.positions_S, np.int32, (slots,), "positions")
        seen = np.zeros(num_items, bool)
        if slots and not (self.positions_S.min() >= 0 and self.positions_S.max() < num_items):
            raise ValueError(f"positions of the arrangement leave 0 to {num_items - 1}")
        seen[self.positions_S] = True
        if seen.sum() != slots:
            raise ValueError("an item stands in two slots of the arrangement")


def lay_out(
    codes_IM: Codes, codebooks_MdB: Floats, removed_I: NDArray[np.bool_] | None, query_SD: Floats | None, threads: int
) -> Arrangement:
    """The arrangement that suits a catalogue: in order where it is small, else by what sample queries ask for.

    Args:
        codes_IM: uint8, contiguous.
        codebooks_MdB: float32, sub-items last.
        removed_I: items that get no slot; None: all get one.
        query_SD: sample queries in the space of the codebooks; None: vectors of random items, which queries resemble.
        threads: at most.
    """
    kept = None if removed_I is None or not removed_I.any() else np.flatnonzero(~removed_I).astype(np.int32)
    if not len(codes_IM) or (len(codes_IM) < PRUNED_FROM and kept is None):
        return in_order(codes_IM, as_they_are(codes_IM.shape[1]))
    if query_SD is None:
        query_SD = sample_queries(codes_IM, codebooks_MdB)
    return arrange(codes_IM, load_core().score_table(query_SD, codebooks_MdB), kept, threads)


def sample_queries(codes_IM: Codes, codebooks_MdB: Floats) -> Floats:
    """(S, D) vectors of random items, which queries resemble, with 1 as their largest value."""
    some = np.random.default_rng(0).integers(0, len(codes_IM), NUM_SAMPLES)
    query_SD = codebooks_MdB[np.arange(codes_IM.shape[1]), :, codes_IM[some]].reshape(len(some), -1)
    scaled: Floats = query_SD / np.maximum(np.abs(query_SD).max(axis=1, keepdims=True), np.float32(1e-30))
    return scaled


def in_order(codes_IM: Codes, recode_MB: Codes) -> Arrangement:
    """Blocks in the order of the positions, unbounded: what a flat scan needs. Cost: copies the codes."""
    return Arrangement(load_core().to_blocks(codes_IM, None, recode_MB), None, [], recode_MB)


def arrange(codes_IM: Codes, table_SMB: Floats, kept: Ids | None, threads: int) -> Arrangement:
    """Similar items side by side, bounds above them.

    Args:
        codes_IM: uint8, contiguous.
        table_SMB: score tables of sample queries; what they ask for decides the order. Any number of them will do:
            from 64 to 190 nothing changed.
        kept: positions that get a slot; None: all.
        threads: at most.

    Cost: about 0.4 us per item on one core, and 2 (M + 4) bytes per item while it runs (at most 16.8 million items at
    a time).
    """
    core = load_core()
    chosen = codes_IM if kept is None else np.ascontiguousarray(codes_IM[kept])
    scaled_MBS = _scaled(table_SMB)
    recode_MB = best_codes(chosen, scaled_MBS, table_SMB.shape[2], threads)
    tables_MBS = renamed(scaled_MBS, recode_MB)
    slots_S = core.order(chosen, tables_MBS, recode_MB, threads)
    blocks = core.to_blocks(chosen, slots_S, recode_MB)
    levels = (
        [Level(*level) for level in core.levels(blocks, len(chosen), tables_MBS, TOP_NODES, threads)]
        if len(chosen)
        else []
    )
    return Arrangement(blocks, slots_S if kept is None else kept[slots_S], levels, recode_MB)


def _scaled(table_SMB: Floats) -> Floats:
    """(M, 256, S): what a sub-item loses against its split's best, where an average item loses 1 in all.

    Codes that the catalogue does not have lose as much as the worst.
    """
    gap_SMB = table_SMB - table_SMB.max(axis=2, keepdims=True).astype(np.float64)
    gap_SMB /= np.maximum(-gap_SMB.mean(axis=2).sum(axis=1), 1e-300)[:, None, None]
    padded = np.full((*gap_SMB.shape[:2], 256), gap_SMB.min(initial=0.0), np.float32)
    padded[:, :, : gap_SMB.shape[2]] = gap_SMB
    return np.ascontiguousarray(padded.transpose(1, 2, 0))


def _require(array: NDArray[Any], dtype: Any, shape: tuple[int, ...], name: str) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(f"{name} of the arrangement: {array.dtype} {array.shape}, but {dtype.__name__} {shape} needed")
