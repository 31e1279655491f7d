"""To faiss and from it: IndexPQ with byte codes and inner product, also behind one rotation (OPQ).

faiss's `search` answers (scores, ids); `PQIndex.top_k` answers (items, scores, bound, scored): the same items but for
ties, and the same scores but for the last bits, because faiss adds up in another order.
"""

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everyitem.types import Floats

BITS = 8


def read(index: Any) -> tuple[NDArray[np.uint8], Floats, Floats | None]:
    """(codes (I, M), codebooks (M, 256, d), rotation (D, D) or None) of a faiss index.

    Raises:
        ValueError: another kind of index, other than 8 bits per code, a metric other than inner product, not trained.
    """
    faiss: Any = importlib.import_module("faiss")
    index = faiss.downcast_index(index)
    rotation = None
    if isinstance(index, faiss.IndexPreTransform):
        if index.chain.size() != 1:
            raise ValueError(f"the faiss index has {index.chain.size()} transforms, but one rotation is allowed")
        turn = faiss.downcast_VectorTransform(index.chain.at(0))
        if not isinstance(turn, faiss.LinearTransform) or turn.have_bias or turn.d_in != turn.d_out:
            raise ValueError("the faiss index has a transform that is not a rotation (a square matrix without bias)")
        rotation = faiss.vector_to_array(turn.A).reshape(turn.d_out, turn.d_in)
        index = faiss.downcast_index(index.index)
    if (
        not isinstance(index, faiss.IndexPQ)
        or index.pq.nbits != BITS
        or index.metric_type != faiss.METRIC_INNER_PRODUCT
    ):
        raise ValueError(
            f"the faiss index is {type(index).__name__}, but IndexPQ, {BITS} bits, METRIC_INNER_PRODUCT is needed"
        )
    if not index.is_trained:
        raise ValueError("the faiss index has not been trained, so it has no codebooks")
    pq = index.pq
    codebooks = faiss.vector_to_array(pq.centroids).reshape(pq.M, pq.ksub, pq.dsub)
    return faiss.vector_to_array(index.codes).reshape(index.ntotal, pq.M), codebooks, rotation


def write(codes_IM: NDArray[np.uint8], codebooks_MBd: Floats, rotation_DD: Floats | None) -> Any:
    """A faiss IndexPQ, behind a LinearTransform where there is a rotation. Codebooks get zeros up to 256."""
    faiss: Any = importlib.import_module("faiss")
    num_splits, num_sub_items, split_dim = codebooks_MBd.shape
    index = faiss.IndexPQ(num_splits * split_dim, num_splits, BITS, faiss.METRIC_INNER_PRODUCT)
    padded = np.zeros((num_splits, 1 << BITS, split_dim), np.float32)
    padded[:, :num_sub_items] = codebooks_MBd
    faiss.copy_array_to_vector(padded.ravel(), index.pq.centroids)
    index.is_trained = True
    index.add_sa_codes(np.ascontiguousarray(codes_IM))
    if rotation_DD is None:
        return index
    turn = faiss.LinearTransform(index.d, index.d, False)
    faiss.copy_array_to_vector(np.ascontiguousarray(rotation_DD).ravel(), turn.A)
    turn.is_trained = True
    whole = faiss.IndexPreTransform(turn, index)
    for part in (turn, index):
        part.this.disown()
    whole.own_fields = True
    return whole
