"""The space of the codebooks: what queries must be to enter it, what they become, and how vectors leave it."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from everyitem.index import door
from everyitem.index.core import load_core
from everyitem.types import Floats


class Space:
    """Codebooks, and the rotation that turns queries into their space, if there is one."""

    def __init__(self, codebooks_MBd: ArrayLike, rotation_DD: ArrayLike | None) -> None:
        codebooks, self._largest = door.finite(codebooks_MBd, "codebooks", 3)
        num_splits, num_sub_items, split_dim = codebooks.shape
        if not (1 <= num_splits <= 64 and 2 <= num_sub_items <= 256 and split_dim >= 1):
            raise ValueError(
                f"codebooks have shape {codebooks.shape}, but (M, B, d) needs 1 <= M <= 64, 2 <= B <= 256 and d >= 1"
            )
        self.codebooks_MdB: Floats = np.ascontiguousarray(codebooks.transpose(0, 2, 1))
        self.dim: int = num_splits * split_dim
        self.rotation_DD = None if rotation_DD is None else self._checked(rotation_DD)

    def queries(self, query_UD: ArrayLike) -> Floats:
        """(U, D) checked, and turned."""
        if self.rotation_DD is None:
            return door.queries(query_UD, self.dim, self._largest)
        query = door.queries(query_UD, self.dim, float(np.abs(self.rotation_DD).max()))
        return door.queries(_turned(query, self.rotation_DD), self.dim, self._largest)

    def asked(self, query_UD: ArrayLike) -> Floats:
        """The same, or the score tables (U, M, B) that came instead of queries."""
        asked = np.asarray(query_UD)
        if asked.ndim != 3:
            return self.queries(asked)
        num_splits, _, num_sub_items = self.codebooks_MdB.shape
        return door.tables(asked, num_splits, num_sub_items)

    def score_table(self, query_UD: ArrayLike) -> Floats:
        """(U, M, B) what every sub-item adds to a score."""
        table: Floats = load_core().score_table(self.queries(query_UD), self.codebooks_MdB)
        return table

    def vectors(self, codes_NM: NDArray[np.uint8]) -> Floats:
        """(N, D) what the codes stand for, turned back."""
        vectors_ND = self.codebooks_MdB[np.arange(len(self.codebooks_MdB)), :, codes_NM].reshape(-1, self.dim)
        return vectors_ND if self.rotation_DD is None else _turned(vectors_ND, self.rotation_DD.T)

    def _checked(self, rotation_DD: ArrayLike) -> Floats:
        rotation, _ = door.finite(rotation_DD, "rotation", 2)
        if rotation.shape != (self.dim, self.dim):
            raise ValueError(f"rotation has shape {rotation.shape}, but this index needs ({self.dim}, {self.dim})")
        return rotation


def _turned(vectors_ND: Floats, matrix_DD: Floats) -> Floats:
    """Every vector times the matrix, by our own kernel: BLAS would let the bits depend on the batch."""
    turned: Floats = load_core().dense_scores(vectors_ND, np.ascontiguousarray(matrix_DD))
    return turned


def added_up(table_UMB: Floats, codes_UNM: NDArray[np.uint8]) -> Floats:
    """(U, N) scores of N items of each row's own: the sums of `reference.pq_scores`, to the bit.

    Split by split over all rows, so that the interpreter is left alone and other threads run.
    """
    num_rows, num_splits, num_sub_items = table_UMB.shape
    flat, first_U1 = table_UMB.ravel(), np.arange(num_rows)[:, None] * (num_splits * num_sub_items)
    scores_UN: Floats = flat.take(first_U1 + codes_UNM[:, :, 0])
    for m in range(1, num_splits):
        scores_UN += flat.take(first_U1 + m * num_sub_items + codes_UNM[:, :, m])
    return scores_UN
