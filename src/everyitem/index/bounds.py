"""What bytes tell of scores before any is computed: the NumPy twin of `native/gaps.h`. Knows no index and no filter."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from everyitem.index.arrangement import Codes
from everyitem.types import Floats

LARGEST_CUT = 254
LARGEST_GAP = 1 << 16
UNIT = 2.0**-24


class ByteGaps(NamedTuple):
    """Gaps of sub-items in whole steps, rounded down: what an item loses against the best of every split, at least."""

    ceiling: float
    """No item scores more."""
    step: float
    """The score that a step stands for."""
    gaps_MB: NDArray[np.int64]
    """Steps, at most LARGEST_GAP; the searches do not tell 255 from more."""

    def sums(self, codes_IM: Codes) -> NDArray[np.int64]:
        """(I,) steps that items lose in all; who loses more than LARGEST_CUT scores less than the threshold."""
        sums_I = np.zeros(len(codes_IM), np.int64)
        for gaps_B, codes_I in zip(self.gaps_MB, codes_IM.T, strict=True):
            sums_I += gaps_B[codes_I]
        return sums_I

    def bounds(self, sums_I: NDArray[np.int64]) -> Floats:
        """(I,) what items that lose so many steps score at most, float64."""
        return self.ceiling - self.step * (1 - 8 * UNIT) * sums_I


def byte_gaps(table_MB: Floats, threshold: float) -> ByteGaps:
    """The gap table for a threshold; the proof that it never overestimates stands in `native/gaps.h`.

    Args:
        table_MB: float32, finite: the score table of one query.
        threshold: finite; or -inf: no item is to be left out.
    """
    largest_M, table64_MB = table_MB.max(axis=1), table_MB.astype(np.float64)
    top = float(np.add.accumulate(largest_M)[-1])
    slack = 2 * len(table_MB) * UNIT * float(np.abs(table64_MB).max(axis=1).sum())
    span = float(np.ptp(table64_MB, axis=1).sum()) if np.isneginf(threshold) else top - threshold
    scale = min(LARGEST_CUT / max(span + slack, 1e-30), 1e30)
    gaps_MB = (largest_M[:, None] - table_MB) * np.float32(scale * (1 - 8 * UNIT))
    return ByteGaps(top + slack, 1 / scale, np.minimum(gaps_MB, LARGEST_GAP).astype(np.int64))
