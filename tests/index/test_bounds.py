"""Bytes never promise less than an item scores: the twin of `native/gaps.h`, held against every score."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from everyitem.index import reference
from everyitem.index.bounds import LARGEST_CUT, byte_gaps


@st.composite
def searches(draw):
    """(table, codes, scores) with ties, large and tiny values."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    num_splits, num_sub_items, num_items = draw(st.tuples(st.integers(1, 33), st.integers(2, 256), st.integers(1, 300)))
    table_MB = rng.standard_normal((num_splits, num_sub_items)) * 10.0 ** draw(st.integers(-20, 20))
    if draw(st.booleans()):
        table_MB = np.round(table_MB / np.abs(table_MB).max() * 2)
    table_MB = table_MB.astype(np.float32)
    codes_IM = rng.integers(0, num_sub_items, (num_items, num_splits), dtype=np.uint8)
    return table_MB, codes_IM, reference.pq_scores(table_MB[None], codes_IM)[0]


@settings(max_examples=150, deadline=None)
@given(searches(), st.floats(0, 1))
def test_whoever_reaches_the_threshold_passes_and_no_bound_is_exceeded(search, quantile):
    table_MB, codes_IM, scores_I = search
    threshold = float(np.quantile(scores_I, quantile, method="lower"))
    gaps = byte_gaps(table_MB, threshold)
    sums_I = gaps.sums(codes_IM)
    assert (sums_I[scores_I >= threshold] <= LARGEST_CUT).all()
    assert (gaps.bounds(sums_I) >= scores_I).all()
    assert scores_I.max() <= gaps.ceiling


@settings(max_examples=50, deadline=None)
@given(searches())
def test_without_a_threshold_everything_passes(search):
    table_MB, codes_IM, _ = search
    assert (byte_gaps(table_MB, -np.inf).sums(codes_IM) <= LARGEST_CUT).all()


def test_bytes_tell_most_items_apart_from_the_best_ones():
    rng = np.random.default_rng(0)
    table_MB = rng.standard_normal((8, 256)).astype(np.float32)
    codes_IM = rng.integers(0, 256, (20_000, 8), dtype=np.uint8)
    scores_I = reference.pq_scores(table_MB[None], codes_IM)[0]
    threshold = float(np.sort(scores_I)[-10])
    passing = byte_gaps(table_MB, threshold).sums(codes_IM) <= LARGEST_CUT
    assert 10 <= passing.sum() < 40
