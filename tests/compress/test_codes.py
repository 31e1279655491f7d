from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everyitem.compress.codes import (
    _bins,
    bpr_codes,
    count_matrix,
    kmeans_codes,
    nearest_codes,
    random_codes,
    seen_items,
    svd_codes,
    svd_rank_codes,
    svd_vectors,
    vector_codes,
)
from everyitem.quantise import Quantised, decode
from everyitem.types import Histories

BINNED = [svd_codes, svd_rank_codes, bpr_codes]
ALL = [random_codes, *BINNED, partial(kmeans_codes, dim=8)]
rows = st.lists(st.lists(st.integers(0, 9), max_size=12), max_size=8)


def tastes(num_groups=4, items_per_group=25, num_users=200, unseen=10, seed=0):
    """Users who stay within one group of items; the last positions are met by nobody."""
    rng = np.random.default_rng(seed)
    group_U = rng.integers(num_groups, size=num_users)
    lists = [group * items_per_group + rng.integers(items_per_group, size=20) for group in group_U]
    return Histories.from_lists(lists), num_groups * items_per_group + unseen


def array_of(assigned):
    return assigned.codes_IM if isinstance(assigned, Quantised) else assigned


def naive_bins(values, num_sub_items):
    by_value = sorted(range(len(values)), key=lambda i: (values[i], i))
    return [num_sub_items * by_value.index(i) // len(values) for i in range(len(values))]


@given(rows)
def test_count_matrix_counts(lists):
    expected = np.zeros((len(lists), 10))
    for u, items in enumerate(lists):
        for i in items:
            expected[u, i] += 1
    histories = Histories.from_lists(lists)
    counts_UI = count_matrix(histories, 10)
    assert (counts_UI.toarray() == expected).all()
    assert counts_UI.nnz == np.count_nonzero(expected)
    assert (seen_items(histories, 10) == expected.any(0)).all()


def test_count_matrix_reads_views_with_gaps():
    histories = Histories.from_lists([[1, 2, 3], [0], [3, 3, 2]]).last(2).select(np.array([2, 0]))
    assert count_matrix(histories, 4).toarray().tolist() == [[0, 0, 1, 1], [0, 0, 1, 1]]


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=40), st.integers(2, 9))
def test_bins_equal_their_naive_twin_ties_included(values, num_sub_items):
    everyone = np.ones(len(values), bool)
    codes = _bins(np.array(values, float), everyone, num_sub_items, 0.0, np.random.default_rng(0))
    assert codes.tolist() == naive_bins(values, num_sub_items)


@settings(max_examples=25, deadline=None)
@given(rows, st.integers(1, 30), st.integers(1, 4), st.integers(2, 9), st.sampled_from(BINNED))
def test_bins_are_equally_full_whatever_the_log(lists, extra, num_splits, num_sub_items, strategy):
    num_items = 10 + extra
    codes_IM = strategy(Histories.from_lists(lists), num_items, num_splits, num_sub_items=num_sub_items)
    assert codes_IM.shape == (num_items, num_splits)
    for column in codes_IM.T:
        sizes = np.bincount(column, minlength=num_sub_items)
        assert len(sizes) == num_sub_items
        assert sizes.max() - sizes.min() <= 1


@pytest.mark.parametrize("strategy", ALL)
def test_the_seed_decides_and_the_array_is_ready_to_use(strategy):
    histories, num_items = tastes()
    codes_IM = array_of(strategy(histories, num_items, 4, num_sub_items=16, seed=5))
    assert codes_IM.dtype == np.uint8
    assert codes_IM.flags.c_contiguous
    assert codes_IM.shape == (num_items, 4)
    assert codes_IM.max() < 16
    assert (codes_IM == array_of(strategy(histories, num_items, 4, num_sub_items=16, seed=5))).all()
    assert (codes_IM != array_of(strategy(histories, num_items, 4, num_sub_items=16, seed=6))).any()


@pytest.mark.parametrize("strategy", ALL)
def test_unseen_items_are_spread_over_the_sub_items(strategy):
    histories, num_items = tastes(unseen=400)
    codes_IM = array_of(strategy(histories, num_items, 4, num_sub_items=8))
    for column in codes_IM[100:].T:
        assert np.bincount(column, minlength=8).min() > 10


@pytest.mark.parametrize("strategy", [svd_rank_codes, partial(kmeans_codes, dim=8)])
def test_items_of_one_taste_share_sub_items(strategy):
    histories, num_items = tastes(unseen=0)
    codes_IM = array_of(strategy(histories, num_items, 4, num_sub_items=8))
    group_I = np.arange(num_items) // 25
    agree_II = (codes_IM[:, None] == codes_IM).mean(2)
    same_II = group_I[:, None] == group_I
    assert agree_II[same_II].mean() > 2 * agree_II[~same_II].mean()


def dense_counts(histories, num_items):
    counts_UI = np.zeros((len(histories), num_items))
    for u, items in enumerate(histories):
        np.add.at(counts_UI[u], items, 1)
    return counts_UI


def assert_same_order(codes_I, values_I, num_sub_items):
    """Equal bins up to the sign of a singular vector, float32 rounding and RecJPQ's noise."""
    expected_I = np.array(naive_bins(values_I, num_sub_items))
    assert min(np.abs(codes_I - expected_I).max(), np.abs(num_sub_items - 1 - codes_I - expected_I).max()) <= 1


def test_svd_codes_are_the_bins_of_the_dense_svd():
    rng = np.random.default_rng(1)
    lists = [np.minimum(rng.zipf(1.4, 30), 40) - 1 for _ in range(80)]
    histories = Histories.from_lists([*lists, np.arange(40)])
    codes_IM = svd_codes(histories, 40, 2, num_sub_items=4)
    _, _, right_DI = np.linalg.svd(dense_counts(histories, 40))
    for m in range(2):
        assert_same_order(codes_IM[:, m].astype(int), right_DI[m], 4)


def test_svd_rank_codes_are_what_the_docstring_says(monkeypatch):
    monkeypatch.setattr("everyitem.compress.codes.RANK_JITTER", 0.0)
    rng = np.random.default_rng(1)
    lists = [np.minimum(rng.zipf(1.4, 30), 40) - 1 for _ in range(80)]
    histories = Histories.from_lists([*lists, np.arange(40)])
    matrix_UI = np.log1p(dense_counts(histories, 40))
    matrix_UI /= np.linalg.norm(matrix_UI, axis=1, keepdims=True)
    matrix_UI /= np.sqrt(np.linalg.norm(matrix_UI, axis=0))
    factors_MI = np.linalg.svd(matrix_UI)[2][:3]
    factors_MI /= np.linalg.norm(factors_MI, axis=0)
    codes_IM = svd_rank_codes(histories, 40, 3, num_sub_items=4)
    for m in range(3):
        assert_same_order(codes_IM[:, m].astype(int), factors_MI[m], 4)


@pytest.mark.parametrize("strategy", ALL)
def test_fewer_items_than_sub_items(strategy):
    codes_IM = array_of(strategy(Histories.from_lists([[0, 1, 2], [2, 1]]), 5, 2))
    assert codes_IM.shape == (5, 2)


@pytest.mark.parametrize("strategy", [random_codes, svd_codes, svd_rank_codes])
def test_a_log_without_a_single_event(strategy):
    assert strategy(Histories.from_lists([]), 50, 2, num_sub_items=5).shape == (50, 2)


def test_kmeans_codes_come_with_the_centroids_that_they_mean():
    histories, num_items = tastes()
    codes_IM, codebooks_MBd, rotation_DD = kmeans_codes(histories, num_items, 4, num_sub_items=16, dim=8)
    assert codebooks_MBd.shape == (4, 16, 2)
    seen_I = seen_items(histories, num_items)
    meant_ID = decode(codes_IM[seen_I], codebooks_MBd, rotation_DD)
    cosine_I = (meant_ID * svd_vectors(histories, num_items, 8)[seen_I]).sum(1) / np.linalg.norm(meant_ID, axis=1)
    assert cosine_I.mean() > 0.9


def test_svd_vectors_are_the_cosines_of_the_damped_columns():
    histories, num_items = tastes(unseen=3)
    vectors_ID = svd_vectors(histories, num_items, dim=103)
    matrix_UI = np.log1p(dense_counts(histories, num_items))
    matrix_UI /= np.linalg.norm(matrix_UI, axis=1, keepdims=True)
    matrix_UI /= np.maximum(np.linalg.norm(matrix_UI, axis=0), 1e-9)
    np.testing.assert_allclose(vectors_ID @ vectors_ID.T, matrix_UI.T @ matrix_UI, atol=1e-4)


def test_vector_codes_look_at_directions_and_leave_their_input():
    vectors_ID = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    before = vectors_ID.copy()
    small = vector_codes(vectors_ID, 4, num_sub_items=16)
    large = vector_codes(vectors_ID * np.float32(4), 4, num_sub_items=16)
    assert (small.codes_IM == large.codes_IM).all()
    assert (vectors_ID == before).all()


def test_jitter_parts_equal_vectors():
    vectors_ID = np.repeat(np.eye(4, 8, dtype=np.float32), 100, axis=0)
    plain = vector_codes(vectors_ID, 4, num_sub_items=16)
    noisy = vector_codes(vectors_ID, 4, num_sub_items=16, jitter=0.6)
    assert len(np.unique(plain.codes_IM, axis=0)) == 4
    assert len(np.unique(noisy.codes_IM, axis=0)) > 200


def test_nearest_codes_equals_its_naive_twin_within_cells():
    rng = np.random.default_rng(0)
    clump_I = rng.integers(5, size=200)
    vectors_ID = (100 * np.eye(5)[clump_I] + rng.integers(-2, 3, (200, 5))).astype(np.float32)
    seen_I = rng.random(200) < 0.6
    codes_IM = rng.integers(16, size=(200, 3), dtype=np.uint8)
    expected_IM = codes_IM.copy()
    seen = np.flatnonzero(seen_I)
    for item in np.flatnonzero(~seen_I):
        distances = np.square(vectors_ID[seen] - vectors_ID[item]).sum(1)
        expected_IM[item] = codes_IM[seen[distances.argmin()]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("everyitem.compress.codes.CELLS", 5)
        assert (nearest_codes(codes_IM, seen_I, vectors_ID) == expected_IM).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 60), st.floats(0, 1))
def test_nearest_codes_come_from_seen_items(seed, num_items, share):
    rng = np.random.default_rng(seed)
    codes_IM = np.arange(num_items, dtype=np.uint8)[:, None]
    seen_I = rng.random(num_items) < share
    out_IM = nearest_codes(codes_IM, seen_I, rng.normal(size=(num_items, 2)).astype(np.float32))
    kept_I = (out_IM == codes_IM)[:, 0]
    assert kept_I[seen_I].all()
    assert seen_I[out_IM[~kept_I, 0]].all()


def test_mistakes_are_named():
    histories = Histories.from_lists([[0, 7]])
    for strategy in (*BINNED, kmeans_codes):
        with pytest.raises(ValueError, match=r"positions 0\.\.7, the catalogue has 0\.\.4"):
            strategy(histories, 5, 2)
    for strategy in (random_codes, *BINNED, kmeans_codes):
        with pytest.raises(ValueError, match="choose 2 to 256"):
            strategy(histories, 8, 2, num_sub_items=300)
        with pytest.raises(ValueError, match="at least one code"):
            strategy(histories, 8, 0)
    with pytest.raises(ValueError, match="does not divide dim 64"):
        kmeans_codes(histories, 8, 5)
