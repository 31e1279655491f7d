"""What `DenseIndex` says about itself, and what it refuses. Its laws are in tests/test_laws.py."""

import numpy as np
import pytest

from everyitem.index import DenseIndex

VECTORS = np.random.default_rng(0).standard_normal((300, 37)).astype(np.float32)


def test_scores_are_dot_products_whatever_the_dim() -> None:
    for dim in range(1, 38):
        index = DenseIndex(VECTORS[:, :dim])
        assert (index.num_items, index.dim) == (300, dim)
        scores = index.scores(VECTORS[:3, :dim], np.tile(np.arange(300), (3, 1)))
        assert np.allclose(scores, VECTORS[:3, :dim].astype(np.float64) @ VECTORS[:, :dim].T, atol=1e-5)


def test_an_item_added_live_can_be_found_and_removed() -> None:
    index = DenseIndex(VECTORS)
    (position,) = index.add(vectors=VECTORS[:1] * 100)
    assert index.top_k(VECTORS[:1], 1).items.tolist() == [[position]] == [[300]]
    assert np.array_equal(index.vectors([300]), VECTORS[:1] * 100)
    assert index.top_k(VECTORS[:1], 1, deadline=0).bound >= index.scores(VECTORS[:1], [[300]])[0]
    index.remove([300])
    assert index.top_k(VECTORS[:1], 1).items[0, 0] != 300


def test_mistakes_are_explained() -> None:
    with pytest.raises(ValueError, match="at least one column"):
        DenseIndex(np.empty((3, 0)))
    with pytest.raises(ValueError, match="vectors: got NaN or infinity"):
        DenseIndex(np.where(np.arange(37) == 30, np.inf, VECTORS))
    with pytest.raises(ValueError, match=r"needs \(items, 37\)"):
        DenseIndex(VECTORS).add(vectors=VECTORS[:, 1:])
    with pytest.raises(ValueError, match="could overflow float32"):
        DenseIndex(VECTORS * 1e20).top_k(VECTORS * 1e20, 1)
