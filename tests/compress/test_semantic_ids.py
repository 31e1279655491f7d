"""Semantic ids: residual codes, balance, last digits, what others published."""

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everyitem.compress.rq_vae import rq_vae_codes
from everyitem.compress.semantic_ids import (
    as_tokens,
    balanced_assignment,
    collisions,
    level_sizes,
    read_semantic_ids,
    residual_kmeans,
    text_vectors,
    with_last_digit,
)

RNG = np.random.default_rng(0)
CENTRES = RNG.standard_normal((8, 12)) * 4
VECTORS = (CENTRES[RNG.integers(0, 8, 600)] + RNG.standard_normal((600, 12))).astype(np.float32)


def test_every_level_says_more_about_the_vectors() -> None:
    found = residual_kmeans(VECTORS, 3, num_codes=16)
    left = VECTORS.copy()
    errors = []
    for codes, book in zip(found.codes_IM.T, found.codebooks_MBD, strict=True):
        assert (codes == ((left[:, None] - book) ** 2).sum(2).argmin(1)).mean() > 0.99  # but for rounding
        left -= book[codes]
        errors.append((left**2).mean())
    assert errors[0] > 1.2 * errors[1] > 1.2**2 * errors[2]
    again = residual_kmeans(VECTORS, 3, num_codes=16)
    assert (again.codes_IM == found.codes_IM).all()
    assert again.codebooks_MBD.tobytes() == found.codebooks_MBD.tobytes()


@pytest.mark.parametrize("num_items", [600, 595, 7])
def test_balanced_levels_are_equally_full_and_still_near(num_items: int) -> None:
    vectors = VECTORS[:num_items]
    found = residual_kmeans(vectors, 2, num_codes=16, balanced=True)
    for codes in found.codes_IM.T:
        sizes = np.bincount(codes, minlength=16)
        assert sizes.max() - sizes.min() <= 1
    if num_items == 600:
        error = ((vectors - found.codebooks_MBD[0][found.codes_IM[:, 0]]) ** 2).sum()
        free = residual_kmeans(vectors, 1, num_codes=16)
        assert error < 1.5 * ((vectors - free.codebooks_MBD[0][free.codes_IM[:, 0]]) ** 2).sum()


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), num_items=st.integers(1, 30), num_codes=st.integers(2, 6), ties=st.booleans())
def test_no_item_and_code_would_both_gain_by_leaving_what_they_have(
    seed: int, num_items: int, num_codes: int, ties: bool
) -> None:
    rng = np.random.default_rng(seed)
    shape = (num_items, num_codes)
    distance = (rng.integers(0, 3, shape) if ties else rng.random(shape)).astype(np.float32)
    code = balanced_assignment(distance)
    sizes = np.bincount(code, minlength=num_codes)
    assert sizes.max() - sizes.min() <= 1
    own = distance[np.arange(num_items), code]
    for item, other in np.argwhere(distance < own[:, None]):
        assert (own[code == other] <= distance[item, other]).all()


def test_a_last_digit_tells_equal_strings_apart_in_the_order_of_positions() -> None:
    codes = np.array([[1, 2], [3, 4], [1, 2], [1, 2], [4, 3]], np.int32)
    assert collisions(codes) == (3, 3, 3)
    told = with_last_digit(codes)
    assert told.tolist() == [[1, 2, 0], [3, 4, 0], [1, 2, 1], [1, 2, 2], [4, 3, 0]]
    assert collisions(told) == (5, 0, 1)
    assert with_last_digit(told) is told


def test_tokens_of_different_levels_differ() -> None:
    codes = RNG.integers(0, 9, (50, 3)).astype(np.int32)
    tokens = as_tokens(codes, first=5)
    assert level_sizes(codes).tolist() == (codes.max(axis=0) + 1).tolist()
    levels = [set(column) for column in tokens.T]
    assert not levels[0] & levels[1] | levels[0] & levels[2] | levels[1] & levels[2]
    assert tokens.min() >= 5
    assert tokens.max() < 5 + level_sizes(codes).sum()
    assert len(np.unique(tokens, axis=0)) == len(np.unique(codes, axis=0))


def test_published_ids_are_read_and_odd_ones_refused() -> None:
    assert read_semantic_ids(["<a_183><b_70><c_232>", "<a_0><b_1><c_2>"]).tolist() == [[183, 70, 232], [0, 1, 2]]
    for texts in (["<a_1>", "<a_1><b_2>"], ["none"], [None, "<a_1>"], []):
        with pytest.raises(ValueError, match="numbers per item"):
            read_semantic_ids(texts)


@pytest.mark.parametrize(("name", "distinct"), [("amazon14-beauty", 12_088), ("amazon18-videogames", 16_717)])
def test_the_published_ids_of_real_data(name: str, distinct: int) -> None:
    folder = Path(os.environ.get("EVERYITEM_DATA", "")) / name
    if "EVERYITEM_DATA" not in os.environ or not folder.is_dir():
        pytest.skip("needs the real data sets: set EVERYITEM_DATA to their folder")
    codes = read_semantic_ids(pl.read_parquet(folder / "items.parquet")["sid"].to_list())
    assert codes.shape[1] == 4
    assert codes.max() < 256
    assert collisions(codes).strings == distinct
    assert collisions(with_last_digit(codes)).largest == 1


def test_titles_with_common_words_have_near_vectors() -> None:
    titles = ["Red lamp", "lamp, RED!", "Blue lamp", "Zelda game", None, "zelda"]
    vectors = text_vectors(titles, 4)
    assert vectors.shape == (6, 4)
    near = vectors @ vectors.T
    assert near[0, 1] == pytest.approx(1, abs=1e-5)
    assert near[0, 2] > near[0, 3] + 0.2
    assert near[3, 5] > 0.5
    assert not vectors[4].any()


def test_an_rq_vae_brings_vectors_back_and_is_repeatable() -> None:
    found = rq_vae_codes(VECTORS, 3, num_codes=16, latent=8, hidden=32, steps=250)
    blind = rq_vae_codes(VECTORS, 3, num_codes=16, latent=8, hidden=32, steps=0)
    assert found.error < 0.25 < blind.error
    assert found.used > 0.9
    assert found.codes_IM.max() < 16
    again = rq_vae_codes(VECTORS, 3, num_codes=16, latent=8, hidden=32, steps=250)
    assert (again.codes_IM == found.codes_IM).all()


def test_mistakes_are_explained() -> None:
    with pytest.raises(ValueError, match="at least one code"):
        residual_kmeans(VECTORS, 0)
    with pytest.raises(ValueError, match="choose 2 to 256"):
        residual_kmeans(VECTORS, 2, num_codes=257)
    with pytest.raises(ValueError, match="NaN or infinity"):
        residual_kmeans(np.full((3, 2), np.nan, np.float32))
