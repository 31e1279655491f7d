"""BIGRec's arithmetic against the published formula, number by number."""

import numpy as np
import pytest

from everyitem.evaluate.grounding import best_gamma, from_0_to_1, grounded

RNG = np.random.default_rng(0)
DISTANCE = RNG.random((4, 9)).astype(np.float32) * 7
WEIGHT = RNG.random((4, 9)).astype(np.float32) * 30 - 5


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 20.0])
def test_it_is_the_published_formula(gamma: float) -> None:
    found = grounded(DISTANCE, WEIGHT, gamma)
    for row in range(4):
        for item in range(9):
            distance = (DISTANCE[row, item] - min(DISTANCE[row])) / (max(DISTANCE[row]) - min(DISTANCE[row]))
            weight = (WEIGHT[row, item] - min(WEIGHT[row])) / (max(WEIGHT[row]) - min(WEIGHT[row]))
            assert found[row, item] == pytest.approx(-distance / (1 + weight) ** gamma, abs=1e-6)


def test_rows_of_one_value_say_nothing() -> None:
    assert not from_0_to_1(np.full((2, 3), 5, np.float32)).any()
    assert (grounded(DISTANCE, np.zeros_like(DISTANCE), 3.0) == grounded(DISTANCE, WEIGHT, 0.0)).all()


def test_gamma_is_0_where_weights_mislead_and_large_where_they_know() -> None:
    targets = DISTANCE.argmin(axis=1)
    assert best_gamma(DISTANCE, -np.eye(9, dtype=np.float32)[targets], targets) == 0
    near_but_wrong = np.ones((4, 9), np.float32)
    near_but_wrong[:, 0] = 0.5
    near_but_wrong[:, 1] = 0.0
    wanted = np.full(4, 5, np.int32)
    knows = np.eye(9, dtype=np.float32)[wanted]
    gamma = best_gamma(near_but_wrong, knows, wanted, k=2)
    ranked = (-grounded(near_but_wrong, knows, gamma)).argsort(axis=1, kind="stable")
    assert gamma > 0
    assert (ranked[:, :2] == 5).any(axis=1).all()
