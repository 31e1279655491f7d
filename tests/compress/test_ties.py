from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everyitem.compress.ties import break_ties


def naive_count(codes_IM):
    sizes = Counter(map(tuple, codes_IM.tolist())).values()
    return sum(size for size in sizes if size > 1), max(sizes, default=0)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 60), st.integers(1, 4), st.integers(2, 6), st.booleans())
def test_ties_are_counted_and_broken_wherever_tuples_suffice(
    seed, num_items, num_splits, num_sub_items, with_codebooks
):
    rng = np.random.default_rng(seed)
    codes_IM = rng.integers(num_sub_items, size=(num_items, num_splits), dtype=np.uint8)
    codes_IM[: num_items // 2] = 0
    before_IM = codes_IM.copy()
    codebooks_MBd = rng.normal(size=(num_splits, num_sub_items, 2)).astype(np.float32) if with_codebooks else None
    unique_IM, report = break_ties(codes_IM, num_sub_items, seed, codebooks_MBd=codebooks_MBd)

    assert (codes_IM == before_IM).all()
    assert (report.tied_before, report.largest_before) == naive_count(codes_IM)
    assert (report.tied_after, report.largest_after) == naive_count(unique_IM)
    assert report.changed == (unique_IM != codes_IM).sum()
    assert unique_IM.max(initial=0) < num_sub_items
    assert unique_IM.dtype == np.uint8
    assert unique_IM.flags.c_contiguous
    if num_items <= 0.7 * num_sub_items**num_splits:
        assert report.tied_after == 0
    again_IM, _ = break_ties(codes_IM, num_sub_items, seed, codebooks_MBd=codebooks_MBd)
    assert (again_IM == unique_IM).all()

    # The first of every tuple stays, and with it everyone who had a tuple alone.
    _, first = np.unique(codes_IM, axis=0, return_index=True)
    assert (unique_IM[first] == codes_IM[first]).all()


def test_a_small_group_moves_one_bin_in_one_split():
    codes_IM = np.full((9, 4), 7, np.uint8)
    unique_IM, report = break_ties(codes_IM, 16)
    assert report.changed == 8
    # 4 splits x (one bin down, one bin up), each once
    assert sorted((unique_IM[1:].astype(int) - 7).sum(1)) == [-1] * 4 + [1] * 4
    assert report == (9, 9, 0, 1, 8)


def test_with_codebooks_the_cheapest_move_is_taken():
    codebooks_MBd = np.array([[[0.0], [5.0], [1.0]], [[0.0], [0.5], [9.0]]], np.float32)
    unique_IM, _ = break_ties(np.zeros((3, 2), np.uint8), 3, codebooks_MBd=codebooks_MBd)
    assert unique_IM.tolist() == [[0, 0], [0, 1], [2, 0]]


@pytest.mark.parametrize(("num_items", "num_splits"), [(512, 2), (3000, 8), (70_000, 8)])
def test_a_group_larger_than_its_neighbourhood(num_items, num_splits):
    # M x 255 tuples differ in one split, so the rest must differ in more
    unique_IM, report = break_ties(np.full((num_items, num_splits), 128, np.uint8))
    assert report.tied_after == 0
    assert (unique_IM != 128).sum(1).max() <= 3
    assert naive_count(unique_IM) == (0, 1)


def test_too_few_tuples_are_reported_and_do_not_loop():
    codes_IM = np.zeros((100, 2), np.uint8)
    unique_IM, report = break_ties(codes_IM, 3)
    assert len(np.unique(unique_IM, axis=0)) == 9
    assert report.tied_after == report.largest_after == 92
    assert (unique_IM == 0).all(1).sum() == 92


def test_every_tuple_can_be_used():
    _, report = break_ties(np.zeros((81, 4), np.uint8), 3)
    assert report.tied_after == 0
