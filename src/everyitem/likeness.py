"""Which items are like which, as each kind of index can tell: by their vectors, or by how their strings begin."""

import numpy as np

from everyitem.index import BeamIndex, ModelIndex, grouping
from everyitem.types import Floats, Ids, TopK


def similarity(index: ModelIndex, positions: Ids, position: int) -> Floats:
    """(N,) how near items are to this one: the cosine, or the share of a semantic id that begins alike."""
    if isinstance(index, BeamIndex):
        shared: Floats = (index.shared_tokens(position)[positions] / index.tokens_IM.shape[1]).astype(np.float32)
        return shared
    vectors = index.vectors(np.append(positions, position).astype(np.int32))
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    cosine: Floats = unit[:-1] @ unit[-1]
    return cosine


def similar_items(index: ModelIndex, position: int, k: int) -> TopK:
    """The k other items that the index finds for the item's vector as a query, or with the largest `similarity`."""
    if isinstance(index, BeamIndex):
        return _begin_alike(index, position, k)
    chosen = np.array([position], np.int32)
    return index.top_k(index.vectors(chosen), k, exclude=chosen[None])


def _begin_alike(index: BeamIndex, position: int, k: int) -> TopK:
    every = np.flatnonzero(~index.removed_I & (np.arange(index.num_items) != position)).astype(np.int32)
    near = similarity(index, every, position)
    order = np.argsort(-near, kind="stable")
    items, scores = np.full((1, k), -1, np.int32), np.full((1, k), -np.inf, np.float32)
    found = order[:k]
    items[0, : len(found)], scores[0, : len(found)] = every[found], near[found]
    bound = scores[:, -1] if len(order) > k else np.full(1, -np.inf, np.float32)
    return TopK(items, scores, bound, np.array([len(every)]))


def add_like(index: ModelIndex, models: list[Ids]) -> Ids:
    """Append items that are like known ones: among their vectors, or with the string of the first of them."""
    if isinstance(index, BeamIndex):
        return index.add(tokens=index.tokens_IM[[model[0] for model in models]])
    return index.add(vectors=np.stack([grouping.among(index.vectors(model)) for model in models]))
