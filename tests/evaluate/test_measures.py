"""Measures against ir_measures, resampling against the exact distributions."""

import itertools
import math
import tracemalloc

import ir_measures
import numpy as np
import pytest

from everyitem.evaluate import measures

NUM_ITEMS = 60


def random_run(num_users: int, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Short rows, targets in and out of the list, and targets that do not exist."""
    rng = np.random.default_rng(seed)
    items = np.stack([rng.permutation(NUM_ITEMS)[:k] for _ in range(num_users)]).astype(np.int32)
    for row, length in enumerate(rng.integers(0, k + 1, num_users)):
        items[row, length:] = -1
    return items, rng.integers(-1, NUM_ITEMS, num_users).astype(np.int32)


@pytest.mark.parametrize("k", [1, 3, 10, 30])
@pytest.mark.parametrize("seed", range(3))
def test_measures_equal_ir_measures_for_every_user(k: int, seed: int) -> None:
    items, targets = random_run(50, 30, seed)
    qrels = {str(u): {f"i{target}": 1} for u, target in enumerate(targets)}
    run = {
        str(u): {f"i{item}": float(-place) for place, item in enumerate(row) if item >= 0} or {"nothing": 0.0}
        for u, row in enumerate(items)
    }
    ranks = measures.ranks_of(items, targets)
    assert 0 < (ranks > 0).sum() < len(ranks)
    twins = {
        ir_measures.nDCG @ k: measures.ndcg(ranks, k),
        ir_measures.R @ k: measures.recall(ranks, k),
        ir_measures.RR @ k: measures.mrr(ranks, k),
    }
    theirs = {(m.measure, int(m.query_id)): m.value for m in ir_measures.iter_calc(list(twins), qrels, run)}
    for measure, ours in twins.items():
        np.testing.assert_allclose(ours, [theirs[measure, u] for u in range(len(ranks))], atol=1e-12)


def test_a_target_that_does_not_exist_is_not_found_in_the_padding() -> None:
    items = np.array([[4, 2, -1], [-1, -1, -1]], np.int32)
    assert measures.ranks_of(items, np.array([-1, -1], np.int32)).tolist() == [0, 0]
    assert measures.ranks_of(items, np.array([2, 2], np.int32)).tolist() == [2, 0]


def test_coverage_and_head_share_by_hand() -> None:
    items = np.array([[0, 1, 9], [0, 2, 9], [3, -1, -1]], np.int32)
    exposure = measures.exposure(items, num_items=10, k=2)
    assert exposure.tolist() == [2, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    assert measures.coverage(exposure) == 0.4
    popularity = np.array([5, 7, 7, 1, 0, 0, 0, 0, 0, 0])
    assert measures.head_share(exposure, popularity, head=0.11) == 2 / 5  # 1.1 items: two, 1 and 2
    assert measures.head_share(exposure, popularity, head=0.10) == 1 / 5  # 1 before 2, equally popular
    assert measures.head_share(np.zeros(10, np.int64), popularity) == 0


def test_exposure_adds_up_over_batches() -> None:
    items, _ = random_run(40, 10, seed=5)
    parts = measures.exposure(items[:7], NUM_ITEMS, 4) + measures.exposure(items[7:], NUM_ITEMS, 4)
    assert (parts == measures.exposure(items, NUM_ITEMS, 4)).all()


def test_interval_covers_the_true_mean_at_about_its_level() -> None:
    rng = np.random.default_rng(0)
    ranks = np.arange(0, 21)
    chance = np.r_[0.4, np.full(20, 0.03)]
    truth = chance @ measures.ndcg(ranks, 10)
    covered = [
        low <= truth <= high
        for _, low, high in (
            measures.interval(measures.ndcg(rng.choice(ranks, 200, p=chance), 10), level=0.9, num_resamples=400)
            for _ in range(400)
        )
    ]
    assert 0.86 <= np.mean(covered) <= 0.94  # 0.90 +- 2.7 standard errors


def test_interval_is_the_interval_of_drawing_users() -> None:
    values = measures.ndcg(np.random.default_rng(1).integers(0, 15, 300), 10)
    drawn = np.random.default_rng(2).choice(values, (20_000, 300)).mean(axis=1)
    estimate = measures.interval(values, num_resamples=20_000)
    assert estimate.value == values.mean()
    np.testing.assert_allclose(estimate[1:], np.quantile(drawn, [0.025, 0.975]), atol=0.003)
    assert estimate == measures.interval(values, num_resamples=20_000)
    assert estimate != measures.interval(values, num_resamples=20_000, seed=1)


def test_interval_of_equal_values_is_a_point() -> None:
    assert measures.interval(np.zeros(5)) == (0, 0, 0)


def test_interval_is_flat_in_users() -> None:
    values = measures.ndcg(np.random.default_rng(0).integers(0, 101, 300_000), 100)
    tracemalloc.start()
    measures.interval(values)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6  # users x resamples would be 4.8 GB


def test_sign_flips_against_all_of_them() -> None:
    a = np.array([1, 0.63, 0.5, 0, 0, 0.43, 0, 1, 0.5, 0])
    b = np.array([0.5, 0.63, 0, 0, 0.3, 0, 0, 0.5, 0, 0.3])
    signs = np.array(list(itertools.product([-1, 1], repeat=len(a))))
    exact = (np.abs(signs @ (a - b)) >= abs((a - b).sum()) - 1e-9).mean()
    difference = measures.paired_difference(a, b, num_resamples=50_000)
    assert math.isclose(difference.value, (a - b).mean())
    assert difference.p_value == pytest.approx(exact, abs=0.006)
    mirrored = measures.paired_difference(b, a, num_resamples=50_000)
    assert mirrored.p_value == difference.p_value
    assert mirrored.value == -difference.value


def test_p_value_tells_noise_from_a_gain() -> None:
    rng = np.random.default_rng(3)
    b = rng.random(2000)
    assert measures.paired_difference(b, b) == (0, 0, 0, 1)
    assert measures.paired_difference(b + 0.02, b).p_value == 1 / (measures.RESAMPLES + 1)
    under_null = [
        measures.paired_difference(rng.random(40), rng.random(40), seed=s, num_resamples=200).p_value
        for s in range(300)
    ]
    assert 0.02 <= np.mean(np.array(under_null) <= 0.05) <= 0.09


def test_unpaired_values_are_refused() -> None:
    with pytest.raises(ValueError, match="got 3 and 4 users"):
        measures.paired_difference(np.zeros(3), np.zeros(4))
