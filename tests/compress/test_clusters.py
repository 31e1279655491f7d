import math

import numpy as np
import pytest

from everyitem.compress import clusters
from everyitem.compress.clusters import assign_clusters

KINDS = ["kmeans", "spectral", "frequency", "random"]
rng = np.random.default_rng(0)
BLOBS = np.repeat(np.arange(6), 50)
VECTORS = (np.eye(6, 8)[BLOBS] * 5 + 0.3 * rng.standard_normal((300, 8))).astype(np.float32)
EVENTS = rng.integers(0, 1000, 300)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_clusters", [None, 1, 7, 300])
def test_every_item_is_in_one_of_many_even_clusters(kind, num_clusters):
    found = assign_clusters(VECTORS, EVENTS, kind, num_clusters, seed=3)
    sizes = np.bincount(found)
    assert (found.dtype, found.shape) == (np.int32, (300,))
    assert (sizes > 0).all()
    assert sizes.max() <= 2 * math.ceil(300 / (num_clusters or 18))
    assert found.tolist() == assign_clusters(VECTORS, EVENTS, kind, num_clusters, seed=3).tolist()
    if kind != "spectral":  # halves what is too large, and so may end with more
        assert len(sizes) <= (num_clusters or 18)


@pytest.mark.parametrize("kind", ["kmeans", "spectral"])
def test_items_that_belong_together_stay_together(kind):
    found = assign_clusters(VECTORS, EVENTS, kind, 12, seed=0)
    purity = sum(np.bincount(BLOBS[found == c]).max() for c in range(found.max() + 1)) / 300
    assert purity > 0.9
    assert sum(np.bincount(BLOBS[rng.permutation(found) == c]).max() for c in range(found.max() + 1)) / 300 < 0.6


def test_popular_items_are_dealt_out():
    found = assign_clusters(VECTORS, EVENTS, "frequency", 10, seed=0)
    assert sorted(found[np.argsort(-EVENTS, kind="stable")[:10]].tolist()) == list(range(10))
    assert np.bincount(found).tolist() == [30] * 10


@pytest.mark.parametrize("kind", KINDS)
def test_items_that_are_all_alike_are_spread(kind):
    found = assign_clusters(np.ones((200, 4), np.float32), np.ones(200, int), kind, 10, seed=0)
    assert np.bincount(found).max() <= 40


def test_a_centre_that_is_full_sends_the_farthest_on():
    vectors = np.array([[0.0], [0.1], [0.2], [0.3], [5.0]], np.float32)
    centres = np.array([[0.0], [4.0]], np.float32)
    assert clusters._filled(vectors, centres, 3).tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize(("kind", "num_clusters", "message"), [("random", 0, "is 0"), ("kmeans", 301, "1 to 300")])
def test_numbers_that_cannot_be_are_refused(kind, num_clusters, message):
    with pytest.raises(ValueError, match=message):
        assign_clusters(VECTORS, EVENTS, kind, num_clusters, seed=0)


def test_spectral_clusters_of_large_catalogues_are_refused(monkeypatch):
    monkeypatch.setattr(clusters, "LARGEST_SPECTRAL", 299)
    with pytest.raises(ValueError, match="at most 299; use kmeans"):
        assign_clusters(VECTORS, EVENTS, "spectral", None, seed=0)
