import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everyitem.quantise import decode, encode, product_quantise

rng = np.random.default_rng(0)
CORRELATED = (rng.normal(size=(3000, 16)) @ (rng.normal(size=(16, 16)) * np.geomspace(1, 0.05, 16)[:, None])).astype(
    np.float32
)


def naive_encode(vectors_ID, codebooks_MBd):
    num_splits, _, width = codebooks_MBd.shape
    codes = []
    for vector in vectors_ID:
        for m in range(num_splits):
            part = vector[m * width : (m + 1) * width]
            distances = [float(np.sum((part - centroid) ** 2)) for centroid in codebooks_MBd[m]]
            codes.append(distances.index(min(distances)))
    return np.array(codes, np.uint8).reshape(len(vectors_ID), num_splits)


def naive_lloyd(points, num_sub_items, seed, steps=25):
    centroids = points[np.random.default_rng(seed).choice(len(points), num_sub_items, replace=False)]
    for _ in range(steps):
        nearest = ((points[:, None] - centroids) ** 2).sum(2).argmin(1)
        centroids = np.stack(
            [points[nearest == b].mean(0) if (nearest == b).any() else centroids[b] for b in range(num_sub_items)]
        )
    return float(((points[:, None] - centroids) ** 2).sum(2).min(1).mean())


def error(vectors_ID, quantised):
    return float(np.square(vectors_ID - decode(*quantised)).sum(1).mean())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 40), st.integers(1, 4), st.integers(1, 9), st.integers(1, 3))
def test_encode_equals_its_naive_twin_ties_included(seed, num_items, num_splits, num_sub_items, width):
    # Small integers are exact in float32 and full of ties, also between equal sub-items.
    rng = np.random.default_rng(seed)
    vectors_ID = rng.integers(-2, 3, (num_items, num_splits * width)).astype(np.float32)
    # The centre of the codebook must be exact too, so the sub-items come in pairs b, -b.
    half = rng.integers(-2, 3, (num_splits, num_sub_items, width)).astype(np.float32)
    codebooks_MBd = np.concatenate([half, -half], axis=1)
    assert (encode(vectors_ID, codebooks_MBd) == naive_encode(vectors_ID, codebooks_MBd)).all()


def test_encode_does_not_depend_on_its_chunks(monkeypatch):
    codebooks_MBd = product_quantise(CORRELATED, 4, num_sub_items=16).codebooks_MBd
    codes_IM = encode(CORRELATED, codebooks_MBd)
    monkeypatch.setattr("everyitem.quantise.ROWS_IN_MEMORY", 700)
    monkeypatch.setattr("everyitem.quantise.ROWS_IN_CACHE", 64)
    assert (encode(CORRELATED, codebooks_MBd) == codes_IM).all()


def test_encode_keeps_its_precision_far_from_the_origin():
    near = product_quantise(CORRELATED, 4, num_sub_items=16)
    offset = np.float32(1024)
    far_codes_IM = encode(CORRELATED + offset, near.codebooks_MBd + offset)
    assert (far_codes_IM == near.codes_IM).mean() > 0.999


@pytest.mark.parametrize("rotate", [False, True])
def test_codes_are_those_of_encode_and_the_seed_decides_them(rotate):
    first, second = (product_quantise(CORRELATED, 4, num_sub_items=16, rotate=rotate, seed=3) for _ in range(2))
    assert (first.codes_IM == second.codes_IM).all()
    assert (first.codebooks_MBd == second.codebooks_MBd).all()
    assert (first.codes_IM == encode(CORRELATED, first.codebooks_MBd, first.rotation_DD)).all()
    assert first.codes_IM.dtype == np.uint8
    assert first.codebooks_MBd.dtype == np.float32
    assert first.codes_IM.flags.c_contiguous
    assert (first.codes_IM != product_quantise(CORRELATED, 4, num_sub_items=16, rotate=rotate, seed=4).codes_IM).any()


def test_decode_follows_the_stated_convention():
    codes_IM, codebooks_MBd, rotation_DD = product_quantise(CORRELATED, 4, num_sub_items=16, rotate=True)
    np.testing.assert_allclose(rotation_DD @ rotation_DD.T, np.eye(16), atol=1e-5)
    concatenated = np.concatenate([codebooks_MBd[m, codes_IM[7, m]] for m in range(4)])
    np.testing.assert_allclose(decode(codes_IM, codebooks_MBd, rotation_DD)[7], rotation_DD.T @ concatenated, rtol=1e-4)


def test_kmeans_is_not_worse_than_a_naive_lloyd():
    points = CORRELATED[:800, :3]
    best_naive = min(naive_lloyd(points, 20, seed) for seed in range(3))
    assert error(points, product_quantise(points, 1, num_sub_items=20)) < 1.1 * best_naive


def test_rotation_pays_on_correlated_data():
    plain = error(CORRELATED, product_quantise(CORRELATED, 4, num_sub_items=16))
    assert error(CORRELATED, product_quantise(CORRELATED, 4, num_sub_items=16, rotate=True)) < 0.7 * plain


def test_more_sub_items_are_never_left_empty_where_points_are_many():
    clumped = np.concatenate([np.zeros((2000, 2)), np.arange(64).reshape(32, 2)]).astype(np.float32)
    quantised = product_quantise(clumped, 1, num_sub_items=16)
    assert len(np.unique(quantised.codes_IM)) == 16


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 30), st.integers(1, 3), st.booleans())
def test_no_more_distinct_vectors_than_sub_items_are_kept_exactly(seed, num_items, num_splits, rotate):
    rng = np.random.default_rng(seed)
    vectors_ID = rng.normal(size=(5, 2 * num_splits)).astype(np.float32)[rng.integers(5, size=num_items)]
    quantised = product_quantise(vectors_ID, num_splits, num_sub_items=8, rotate=rotate, seed=seed)
    assert np.isfinite(quantised.codebooks_MBd).all()
    np.testing.assert_allclose(decode(*quantised), vectors_ID, atol=1e-5)


def test_constant_vectors():
    constant = np.full((50, 4), 0.1, np.float32)
    for rotate in (False, True):
        quantised = product_quantise(constant, 2, num_sub_items=4, rotate=rotate)
        np.testing.assert_allclose(decode(*quantised), constant, atol=1e-6)


def test_other_float_types_and_memory_maps(tmp_path):
    np.save(tmp_path / "vectors.npy", CORRELATED.astype(np.float16))
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    codes_IM = product_quantise(mapped, 4, num_sub_items=16).codes_IM
    assert (codes_IM == product_quantise(np.asarray(mapped, np.float32), 4, num_sub_items=16).codes_IM).all()


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="does not divide dim 16"):
        product_quantise(CORRELATED, 5)
    with pytest.raises(ValueError, match="choose 2 to 256"):
        product_quantise(CORRELATED, 4, num_sub_items=257)
    with pytest.raises(ValueError, match="no vectors"):
        product_quantise(CORRELATED[:0], 4)
    with pytest.raises(ValueError, match="one row per item"):
        product_quantise(CORRELATED[0], 4)
    broken = CORRELATED.copy()
    broken[17, 3] = np.nan
    with pytest.raises(ValueError, match="vector 17 holds NaN"):
        product_quantise(broken, 4)
    codebooks_MBd = np.zeros((4, 2, 4), np.float32)
    with pytest.raises(ValueError, match="vector 17 holds NaN"):
        encode(broken, codebooks_MBd)
    with pytest.raises(ValueError, match="codebooks 4 x 4"):
        encode(CORRELATED[:, :12], codebooks_MBd)
