"""Gives every item of a catalogue its code, by the strategy asked for, and breaks ties. Knows no training."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from everyitem.compress import CodesName
from everyitem.compress import codes as strategies
from everyitem.compress.ties import TieReport, break_ties
from everyitem.quantise import Codes, Quantised
from everyitem.types import Floats, Histories

INITIAL_SCALE = 0.1
"""Root mean square of sub-items that start from centroids of co-occurrence; from .03 to .3 it hardly matters."""


class Assigned(NamedTuple):
    """Codes of a catalogue, and what item embeddings can start from."""

    codes_IM: Codes
    codebooks_MBd: Floats | None
    """Sub-items to start from; None where the strategy has no vectors."""
    rotation_DD: Floats | None
    """Into the space of the codebooks; None: the identity."""
    ties: TieReport

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Plain arrays, for a file."""
        named = {"codes_IM": self.codes_IM, "codebooks_MBd": self.codebooks_MBd, "rotation_DD": self.rotation_DD}
        return {name: array for name, array in named.items() if array is not None} | {"ties": np.array(self.ties)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> "Assigned":
        """The inverse of `arrays`."""
        ties = TieReport(*arrays["ties"].tolist())
        return cls(arrays["codes_IM"], arrays.get("codebooks_MBd"), arrays.get("rotation_DD"), ties)


def assign_codes(
    histories: Histories,
    num_items: int,
    kind: CodesName,
    num_splits: int,
    *,
    dim: int,
    seed: int,
    num_sub_items: int = 256,
) -> Assigned:
    """Codes from the training histories alone: every strategy but "dense".

    Args:
        histories: training events.
        num_items: I.
        kind: "kmeans" (wide SVD, OPQ), "hybrid" (half of the splits k-means, half random), "svd-rank", "svd" (the
            paper's), "bpr" or "random".
        num_splits: M.
        dim: D of the model: the width of the SVD for "kmeans".
        seed: of everything random.
        num_sub_items: B.
    """
    shape = (num_splits, num_sub_items)
    if kind == "kmeans":
        return _kmeans(histories, num_items, shape, dim, seed)
    if kind == "hybrid":
        return _hybrid(histories, num_items, shape, dim, seed)
    function = {
        "svd-rank": strategies.svd_rank_codes,
        "svd": strategies.svd_codes,
        "bpr": strategies.bpr_codes,
        "random": strategies.random_codes,
    }[kind]
    codes_IM = function(histories, num_items, num_splits, num_sub_items=num_sub_items, seed=seed)
    codes_IM, ties = break_ties(codes_IM, num_sub_items, seed=seed)
    return Assigned(codes_IM, None, None, ties)


def _kmeans(histories: Histories, num_items: int, shape: tuple[int, int], dim: int, seed: int) -> Assigned:
    num_splits, num_sub_items = shape
    codes_IM, codebooks_MBd, _ = strategies.kmeans_codes(
        histories, num_items, num_splits, dim=dim, num_sub_items=num_sub_items, seed=seed
    )
    codes_IM, ties = break_ties(codes_IM, num_sub_items, seed, codebooks_MBd=codebooks_MBd)
    scale = INITIAL_SCALE / max(float(np.sqrt(np.mean(codebooks_MBd**2))), 1e-12)
    # the model is as free to learn in the rotated space as in the original one, so the rotation is left out
    return Assigned(codes_IM, codebooks_MBd * np.float32(scale), None, ties)


def _hybrid(histories: Histories, num_items: int, shape: tuple[int, int], dim: int, seed: int) -> Assigned:
    """Structure and identity: k-means splits say what an item is like, random splits which one it is.

    With k-means codes alone a model of a million items cannot point at one of them: its neighbours share nearly all
    sub-items. On a log full of repeats that is what matters (docs/log.md).
    """
    num_splits, num_sub_items = shape
    structured = num_splits // 2
    width = dim // num_splits
    like = _kmeans(histories, num_items, (structured, num_sub_items), structured * width, seed)
    hashed = num_splits - structured
    which_IM = strategies.random_codes(histories, num_items, hashed, num_sub_items=num_sub_items, seed=seed)
    drawn = np.random.default_rng(seed).standard_normal((hashed, num_sub_items, width), np.float32)
    assert like.codebooks_MBd is not None
    codebooks_MBd = np.concatenate([like.codebooks_MBd, drawn * np.float32(INITIAL_SCALE)])
    codes_IM = np.hstack([like.codes_IM, which_IM])
    codes_IM, ties = break_ties(codes_IM, num_sub_items, seed, codebooks_MBd=codebooks_MBd)
    return Assigned(codes_IM, codebooks_MBd, None, ties)


def starting_vectors(histories: Histories, num_items: int, dim: int, *, seed: int) -> Floats:
    """(I, D) vectors for a dense model to start from: the log's SVD, so that training begins at item similarity.

    Root mean square `INITIAL_SCALE`; items without a history, and dimensions beyond the log's rank, are noise of a
    fifth of that.
    """
    vectors_ID = strategies.svd_vectors(histories, num_items, dim, seed=seed)
    noise_ID = np.random.default_rng(seed).standard_normal(vectors_ID.shape, dtype=np.float32) * (INITIAL_SCALE / 5)
    scale = INITIAL_SCALE / max(float(np.sqrt(np.mean(vectors_ID**2))), 1e-12)
    return np.asarray(vectors_ID * np.float32(scale) + noise_ID, np.float32)


def compress_vectors(vectors_ID: Floats, num_splits: int, *, seed: int, num_sub_items: int = 256) -> Assigned:
    """Codes, sub-items and rotation that stand for trained item vectors (OPQ): the start of "dense" codes."""
    found: Quantised = strategies.vector_codes(vectors_ID, num_splits, num_sub_items=num_sub_items, seed=seed)
    codes_IM, ties = break_ties(found.codes_IM, num_sub_items, seed, codebooks_MBd=found.codebooks_MBd)
    return Assigned(codes_IM, found.codebooks_MBd, found.rotation_DD, ties)
