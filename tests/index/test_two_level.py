import json
import re
from pathlib import Path

import numpy as np
import pytest
import xxhash

from everyitem.index import TwoLevelIndex, files, load_index
from everyitem.index.grouping import among
from everyitem.index.shards import merge_top_k, save_shards
from everyitem.index.softmax import capped, log_sum_exp

NUM_ITEMS, C, D, U = 300, 12, 16, 5
rng = np.random.default_rng(0)
CENTRES = rng.standard_normal((C, D)).astype(np.float32)
CLUSTER_OF = rng.integers(0, C, NUM_ITEMS)
VECTORS = (CENTRES[CLUSTER_OF] + 0.5 * rng.standard_normal((NUM_ITEMS, D))).astype(np.float32)
QUERIES = rng.standard_normal((U, D)).astype(np.float32)


def made(**options) -> TwoLevelIndex:
    return TwoLevelIndex(VECTORS, CLUSTER_OF, CENTRES, **options)


def exact(queries, vectors, cluster_of, centres, bias=0.0, cap=None):
    """(U, I) log-probabilities in float64, as on paper."""
    squash = (lambda x: x) if cap is None else (lambda x: cap * np.tanh(x / cap))
    q, v, e = (x.astype(np.float64) for x in (queries, vectors, centres))
    full = np.unique(cluster_of)
    logits = squash(q @ e.T) + bias
    log_c = logits - np.logaddexp.reduce(logits[:, full], axis=1)[:, None]
    inside = squash(q @ v.T)
    for c in full:
        members = cluster_of == c
        inside[:, members] -= np.logaddexp.reduce(inside[:, members], axis=1)[:, None]
    return log_c[:, cluster_of] + inside


def test_exp_and_tanh_are_good_to_about_a_unit_in_the_last_place():
    x = rng.uniform(-100, 100, 20_000).astype(np.float32)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(capped(x, 30.0), 30 * np.tanh(wide / 30), rtol=3e-7)
    np.testing.assert_allclose(capped(x / 1000, 30.0), 30 * np.tanh(wide / 30_000), rtol=3e-7)
    pairs = np.stack([np.zeros_like(x), -np.abs(x)], axis=1)
    np.testing.assert_allclose(log_sum_exp(pairs), np.log1p(np.exp(-np.abs(wide))), rtol=0, atol=1e-7)


def test_no_logarithm_of_a_sum_is_below_the_largest_term():
    for spread in (1e-3, 1.0, 1e3, 1e30):
        logits = (rng.standard_normal((200, 37)) * spread).astype(np.float32)
        assert (log_sum_exp(logits) >= logits.max(axis=1)).all()


@pytest.mark.parametrize("cap", [None, 2.0])
def test_scores_are_the_log_probabilities(cap):
    bias = rng.standard_normal(C).astype(np.float32)
    index = made(bias_C=bias, logit_cap=cap)
    wanted = exact(QUERIES, VECTORS, CLUSTER_OF, CENTRES, bias, cap)
    scores = index.scores(QUERIES, np.tile(np.arange(NUM_ITEMS), (U, 1)))
    np.testing.assert_allclose(scores, wanted, atol=2e-5)
    np.testing.assert_allclose(np.exp(scores.astype(np.float64)).sum(axis=1), 1, atol=1e-5)
    best = np.argsort(-wanted, axis=1)
    apart = np.diff(np.take_along_axis(-wanted, best, 1)[:, :11], axis=1).min(axis=1) > 1e-4
    assert apart.any()
    assert (index.top_k(QUERIES, 10).items[apart] == best[apart, :10]).all()


def test_leaving_the_second_normaliser_out_would_rank_otherwise():
    flat = QUERIES @ (VECTORS + CENTRES[CLUSTER_OF]).T
    assert (np.argsort(-flat, axis=1)[:, :10] != made().top_k(QUERIES, 10).items).any()


def test_the_levels_add_up_to_the_very_score():
    index = made(logit_cap=3.0)
    for item in (0, 17, 299):
        cluster, of_cluster, inside = index.levels(QUERIES[0], item)
        assert cluster == CLUSTER_OF[item]
        assert of_cluster + inside == index.scores(QUERIES[:1], [[item]])[0, 0]
        assert max(of_cluster, inside) <= 0


def test_clusters_that_cannot_matter_are_not_visited():
    index = TwoLevelIndex(VECTORS, CLUSTER_OF, CENTRES * 8)
    assert (index.top_k(CENTRES, 5).scored < NUM_ITEMS / 2).all()
    allow = np.isin(CLUSTER_OF, [3])
    assert (index.top_k(CENTRES, 5, allow=allow).scored == allow.sum()).all()


def test_removed_items_keep_their_probability():
    index, before = made(), made().scores(QUERIES, np.tile(np.arange(NUM_ITEMS), (U, 1)))
    index.remove(np.arange(0, NUM_ITEMS, 2))
    assert (index.scores(QUERIES, np.tile(np.arange(NUM_ITEMS), (U, 1))) == before).all()


def test_a_removed_item_can_come_back():
    index, before = made(), made().top_k(QUERIES, 5)
    index.remove(before.items.ravel())
    assert not np.isin(before.items, index.top_k(QUERIES, 5).items).any()
    index.restore(before.items.ravel())
    assert index.top_k(QUERIES, 5).items.tolist() == before.items.tolist()


def test_answers_of_parts_cut_out_by_filters_merge_to_the_whole():
    index, part_of = made(), np.arange(NUM_ITEMS) % 3
    for k in (1, 7, NUM_ITEMS):
        parts = [index.top_k(QUERIES, k, allow=part_of == part) for part in range(3)]
        merged = merge_top_k(parts, [0, 0, 0, NUM_ITEMS], k)
        whole = index.top_k(QUERIES, k)
        assert all(merged[part].tobytes() == whole[part].tobytes() for part in range(3))


def test_a_catalogue_of_probabilities_is_not_cut_into_shards(tmp_path):
    made().save(tmp_path / "index")
    with pytest.raises(ValueError, match="two-level index is not cut into shards"):
        save_shards(tmp_path / "index", tmp_path / "shards", 2)


def test_new_items_join_the_cluster_whose_mean_is_nearest():
    index, new = made(), CENTRES[[4, 4, 9]] + np.float32(0.01)
    means = np.stack([VECTORS[c == CLUSTER_OF].mean(axis=0) for c in range(C)])
    wanted = np.square(new[:, None] - means).sum(axis=2).argmin(axis=1)
    assert index.nearest_clusters(new).tolist() == wanted.tolist()
    index.add(vectors=new)
    anew = TwoLevelIndex(np.concatenate([VECTORS, new]), np.append(CLUSTER_OF, wanted), CENTRES)
    assert index.cluster_of_I.tolist() == anew.cluster_of_I.tolist()
    assert index.top_k(QUERIES, 50).scores.tobytes() == anew.top_k(QUERIES, 50).scores.tobytes()


def test_a_place_among_vectors_is_as_far_out_as_they_are():
    corners = np.array([[3, 0], [0, 4]], np.float32)
    assert among(corners).tolist() == pytest.approx([2.1, 2.8])
    assert among(corners[:1]).tolist() == [3, 0]
    assert among(np.array([[1, 0], [-1, 0]], np.float32)).tolist() == [0, 0]


def test_an_empty_cluster_stands_at_its_own_vector():
    index = TwoLevelIndex(np.empty((0, D)), [], CENTRES)
    assert (index.top_k(QUERIES, 3).items == -1).all()
    assert index.nearest_clusters(CENTRES).tolist() == list(range(C))
    index.add(vectors=VECTORS)
    assert (index.top_k(QUERIES, 3).items >= 0).all()


def test_rebalancing_bounds_every_cluster_and_keeps_what_was_removed():
    index = made()
    index.remove([0, 7])
    assert index.rebalance(10) == index.num_clusters == len(index.bias_C)
    assert index.cluster_sizes_C.max() <= 10
    assert index.vectors_ID.tobytes() == VECTORS.tobytes()
    assert np.flatnonzero(index.removed_I).tolist() == [0, 7]
    assert not np.isin([0, 7], index.top_k(QUERIES, NUM_ITEMS).items).any()
    before = index.num_clusters
    assert index.rebalance(10) == before


def test_rebalancing_changes_probabilities_to_second_order_only():
    changes = []
    for size in (1e-1, 1e-2):
        index, every = made(), np.tile(np.arange(NUM_ITEMS), (U, 1))
        query = QUERIES * np.float32(size)
        before = exact(query, VECTORS, CLUSTER_OF, CENTRES)
        index.rebalance(10)
        after = exact(query, VECTORS, index.cluster_of_I, index.clusters_CD, index.bias_C.astype(np.float64))
        np.testing.assert_allclose(index.scores(query, every), after, atol=2e-5)
        changes.append(np.abs(after - before).max())
    assert changes[1] < changes[0] / 50  # 100 but for the rounding of the stored biases


def test_rebalancing_halves_items_that_are_all_alike():
    index = TwoLevelIndex(np.ones((64, D), np.float32), np.zeros(64, int), CENTRES[:1])
    index.rebalance(1)
    assert index.cluster_sizes_C.tolist() == [1] * 64
    np.testing.assert_allclose(index.top_k(QUERIES, 64).scores, -np.log(64), atol=1e-5)


REFUSED = [
    ({"vectors_ID": VECTORS[:, :0]}, "same number of columns"),
    ({"clusters_CD": CENTRES[:, 1:]}, "same number of columns"),
    ({"clusters_CD": CENTRES[:0]}, "at least one cluster"),
    ({"cluster_of_I": CLUSTER_OF[:-1]}, "cluster_of is int64 of shape (299,)"),
    ({"cluster_of_I": CLUSTER_OF * 1.0}, "cluster_of is float64"),
    ({"cluster_of_I": CLUSTER_OF + 1}, "cluster_of holds 12, but there are clusters 0 to 11"),
    ({"cluster_of_I": CLUSTER_OF - 1}, "cluster_of holds -1"),
    ({"vectors_ID": VECTORS * np.nan}, "NaN"),
    ({"clusters_CD": CENTRES * np.inf}, "finite"),
    ({"bias_C": np.zeros(C + 1)}, "bias has shape (13,)"),
    ({"bias_C": np.full(C, 3e38)}, "moderate"),
    ({"logit_cap": 0.0}, "logit_cap is 0.0"),
    ({"logit_cap": float("nan")}, "logit_cap is nan"),
]


@pytest.mark.parametrize(("wrong", "message"), REFUSED)
def test_what_makes_no_index_is_refused(wrong, message):
    arguments = {"vectors_ID": VECTORS, "cluster_of_I": CLUSTER_OF, "clusters_CD": CENTRES} | wrong
    with pytest.raises(ValueError, match=re.escape(message)):
        TwoLevelIndex(**arguments)


def test_what_does_not_fit_an_index_is_refused_and_changes_nothing():
    index = made()
    for call, message in [
        (lambda: index.top_k(QUERIES[:, 1:], 3), "this index needs"),
        (lambda: index.top_k(QUERIES * np.float32(1e38), 3), "overflow"),
        (lambda: index.scores(QUERIES, np.full((U, 1), NUM_ITEMS)), "items holds 300"),
        (lambda: index.add(vectors=VECTORS[:, 1:]), "this index needs"),
        (lambda: index.add(vectors=VECTORS, clusters=CLUSTER_OF[1:]), "cluster_of"),
        (lambda: index.rebalance(0), "max_cluster_size is 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    assert (index.num_items, index.num_clusters) == (NUM_ITEMS, C)


def test_a_saved_index_stays_on_disk(tmp_path):
    made(logit_cap=4.0, bias_C=np.arange(C)).save(tmp_path)
    loaded = load_index(tmp_path)
    assert isinstance(loaded._state.vectors_ID, np.memmap) or isinstance(loaded._state.vectors_ID.base, np.memmap)
    assert loaded.logit_cap == 4.0
    assert loaded.bias_C.tolist() == list(range(C))
    assert files.check(tmp_path) == []


@pytest.mark.parametrize("section", ["positions", "starts"])
def test_sections_that_do_not_fit_each_other_are_found(tmp_path, section):
    where = made().save(tmp_path)
    path = where / f"{section}.npy"
    array = np.load(path, allow_pickle=False)
    array[1] = array[-1]  # an item twice; a cluster that ends before it begins
    np.save(path, array)
    forge(where, section)
    assert "do not order the items by cluster" in files.check(tmp_path)[0]


@pytest.mark.parametrize(
    ("section", "array", "message"),
    [
        ("vectors", np.zeros(5, np.float32), "2 dimensions"),
        ("clusters", CENTRES[1:], "starts are of 12 clusters, but there are 11|bias has shape"),
        ("bias", np.zeros(3, np.float32), "bias has shape"),
        ("starts", np.zeros((2, 2), np.int64), "do not order"),
        ("logit_cap", np.zeros(2, np.float32), "do not order"),
    ],
)
def test_sections_of_other_shapes_are_refused(tmp_path, section, array, message):
    sections = files.open_version(made().save(tmp_path).parent).sections | {section: array}
    with pytest.raises(ValueError, match=message):
        TwoLevelIndex.from_sections(sections)


def forge(where: Path, section: str) -> None:
    """Make the checksums agree with what is there now."""
    manifest = json.loads((where / "manifest.json").read_text())
    content = (where / f"{section}.npy").read_bytes()
    manifest["sections"][section] |= {"xxh3_128": xxhash.xxh3_128_hexdigest(content), "bytes": len(content)}
    (where / "manifest.json").write_text(json.dumps(manifest, indent=1))
    version = files.named(where)
    (where.parent / "CURRENT").write_text(version + "\n")
