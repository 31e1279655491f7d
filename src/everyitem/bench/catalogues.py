"""Catalogues to search: hand-made ones of known difficulty, and models exported by `everyitem export`.

`easy`, `diffuse`, `hard` and `noise` have clustered items, quantile codes and smooth sub-items, so that similar items
share codes, and queries of one, three, six or ten interests with growing noise; `uniform` has no structure at all.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from everyitem.index.embeddings import read_codes, read_vectors
from everyitem.types import Floats

LEVELS = {"easy": (1, 0.10), "diffuse": (3, 0.25), "hard": (6, 0.45), "noise": (10, 0.9)}
"""Interests of a query, and what its noise dimensions weigh."""
KINDS = ("uniform", *LEVELS)
PAIRS = 24
"""Fourier pairs of a sub-item: the dimensions that follow its place on the split's axis."""
Doubles = NDArray[np.float64]
SAMPLES = 64
"""The first queries of a catalogue may arrange it; the others are timed."""


class Catalogue(NamedTuple):
    """Codes, codebooks, queries."""

    name: str
    codes_IM: NDArray[np.uint8]
    codebooks_MBd: Floats
    queries_UD: Floats
    rotation_DD: Floats | None = None


def read_export(folder: Path) -> Catalogue:
    """What `everyitem export MODEL FOLDER [--queries N]` wrote; without queries there are none."""
    codes_IM, codebooks_MBd = read_codes(folder / "codes.npy", folder / "codebooks.npy")
    queries_UD = np.empty((0, codebooks_MBd.shape[0] * codebooks_MBd.shape[-1]), np.float32)
    rotation_DD = None
    if (folder / "queries.npy").is_file():
        queries_UD = read_vectors(folder / "queries.npy").vectors_ID
    if (folder / "rotation.npy").is_file():
        rotation_DD = read_vectors(folder / "rotation.npy").vectors_ID
    return Catalogue(folder.resolve().name, codes_IM, codebooks_MBd, queries_UD, rotation_DD)


def generate(kind: str, num_items: int, num_splits: int, dim: int, num_queries: int, seed: int = 0) -> Catalogue:
    """A catalogue of one of the kinds above.

    Raises:
        ValueError: D is no multiple of M, or (unless "uniform") a split has less than 48 dimensions.
    """
    least = 1 if kind == "uniform" else 2 * PAIRS
    if dim % num_splits or dim // num_splits < least:
        raise ValueError(
            f"dim is {dim} for {num_splits} splits, but a {kind} catalogue needs a multiple of that, at least "
            f"{least * num_splits}"
        )
    rng = np.random.default_rng(seed)
    if kind == "uniform":
        codes = rng.integers(0, 256, (num_items, num_splits), dtype=np.uint8)
        books = rng.standard_normal((num_splits, 256, dim // num_splits), dtype=np.float32) / np.float32(8)
        return Catalogue(kind, codes, books, rng.standard_normal((num_queries, dim), dtype=np.float32))
    places_IM = _places(rng, num_items, num_splits)
    some = places_IM[rng.choice(num_items, min(num_items, 400_000), replace=False)]
    edges = np.quantile(some, np.linspace(0, 1, 257)[1:-1], axis=0)
    codes = np.stack([np.searchsorted(edges[:, m], places_IM[:, m]) for m in range(num_splits)], axis=1)
    middles_MB = np.quantile(some, (np.arange(256) + 0.5) / 256, axis=0).T
    frequencies = rng.standard_normal((num_splits, 1, PAIRS)) / 0.45
    noise = rng.standard_normal((num_splits, 256, dim // num_splits - 2 * PAIRS)) / 4
    books = np.concatenate([_waves(middles_MB, frequencies), noise], axis=2)
    queries = [_query(rng, places_IM, frequencies, noise.shape[2], *LEVELS[kind]) for _ in range(num_queries)]
    return Catalogue(kind, codes.astype(np.uint8), books.astype(np.float32), np.stack(queries).astype(np.float32))


def _places(rng: np.random.Generator, num_items: int, num_splits: int) -> Floats:
    """(I, M) where an item stands on every axis: departments, clusters in them, items around clusters."""
    spread_M = (1.0 + np.arange(num_splits)) ** -0.25
    departments = rng.standard_normal((40, num_splits)) * spread_M
    num_clusters = int(np.clip(num_items / 500, 64, 200_000))
    centres = departments[rng.integers(0, 40, num_clusters)]
    centres += 0.6 * spread_M * rng.standard_normal((num_clusters, num_splits))
    weights = (1.0 + np.arange(num_clusters)) ** -0.8
    cluster = rng.choice(num_clusters, num_items, p=weights / weights.sum())
    places: Floats = (centres[cluster] + 0.3 * rng.standard_normal((num_items, num_splits))).astype(np.float32)
    return places


def _waves(places_MN: NDArray[Any], frequencies: Doubles) -> Doubles:
    angles = places_MN[:, :, None] * frequencies
    waves: Doubles = np.concatenate([np.cos(angles), np.sin(angles)], axis=2) / np.sqrt(PAIRS)
    return waves


def _query(
    rng: np.random.Generator, places_IM: Floats, frequencies: Doubles, num_noise: int, interests: int, noise: float
) -> Doubles:
    num_items, num_splits = places_IM.shape
    weights = np.exp(-0.5 * np.arange(interests)) * (0.5 + rng.random(interests))
    liked = (num_items * rng.random(interests) ** 3).astype(np.int64) * 2654435761 % num_items
    places = places_IM[liked] + 0.1 * rng.standard_normal((interests, num_splits))
    waves = (_waves(places.T, frequencies) * (weights / weights.sum())[:, None]).sum(axis=1)
    amplitude = np.exp(0.4 * rng.standard_normal((num_splits, 1)))
    whole = np.concatenate([waves, noise * rng.standard_normal((num_splits, num_noise))], axis=1)
    query: Doubles = (3 * amplitude * whole).ravel()
    return query
