"""What histories bring to mind: counts, features and bonuses against a slow and obvious count."""

import itertools
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everyitem.memory import NUM_FEATURES, NUM_LAGS, Memory, count_transitions, remember
from everyitem.types import Histories

ITEMS = 12
rows = st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=9), max_size=8)
law = settings(deadline=None, max_examples=200)


def transitions_by_hand(histories: list[list[int]], size: int) -> dict[int, list[tuple[int, int]]]:
    """item -> [(successor, count)], best first."""
    counts: dict[int, Counter[int]] = {item: Counter() for item in range(ITEMS)}
    for row in histories:
        for before, after in itertools.pairwise(row):
            counts[before][after] += 1
    return {item: sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))[:size] for item, found in counts.items()}


def features_by_hand(histories: list[list[int]], size: int, row: list[int], length: int) -> dict[int, list[float]]:
    """item -> features, from the definition in `everyitem.memory`."""
    recent = row[-length:]
    totals = Counter(before for past in histories for before in past[:-1])
    found: dict[int, list[float]] = {}
    for item in recent:
        age = recent[::-1].index(item) + 1
        found[item] = [1, math.log(age), math.log(recent.count(item)), age == 1] + [0] * (NUM_FEATURES - 4)
    for lag, event in enumerate(recent[::-1][:NUM_LAGS]):
        for item, count in transitions_by_hand(histories, size)[event]:
            column = 4 + 3 * lag
            features = found.setdefault(item, [0] * NUM_FEATURES)
            features[column : column + 3] = [1, math.log(count), math.log(totals[event])]
    return found


@law
@given(histories=rows, size=st.integers(1, 4))
def test_transitions_are_the_counts_of_consecutive_events(histories: list[list[int]], size: int) -> None:
    found = count_transitions(Histories.from_lists(histories), ITEMS, size)
    wanted = transitions_by_hand(histories, size)
    for item in range(ITEMS):
        row = slice(found.starts_I[item], found.starts_I[item + 1])
        assert list(zip(found.items_N[row], found.counts_N[row], strict=True)) == wanted[item]
        assert found.totals_I[item] == sum(item in row[at : at + 1] for row in histories for at in range(len(row) - 1))


@law
@given(histories=rows, asked=rows, size=st.integers(1, 4), length=st.integers(1, 6))
def test_features_are_as_defined(histories: list[list[int]], asked: list[list[int]], size: int, length: int) -> None:
    transitions = count_transitions(Histories.from_lists(histories), ITEMS, size)
    found = remember(transitions, Histories.from_lists(asked), length)
    for user, row in enumerate(asked):
        wanted = features_by_hand(histories, size, row, length)
        real = found.items_UN[user] >= 0
        assert found.items_UN[user, real].tolist() == sorted(wanted)
        assert not found.features_UNF[user, ~real].any()
        for item, features, seen in zip(
            found.items_UN[user, real], found.features_UNF[user, real], found.seen_UN[user, real], strict=True
        ):
            np.testing.assert_allclose(features, wanted[item], rtol=1e-6)
            assert seen == (item in row[-length:])


def some_memory(rng: np.random.Generator, histories: list[list[int]]) -> Memory:
    transitions = count_transitions(Histories.from_lists(histories), ITEMS, 3)
    weights = rng.standard_normal(NUM_FEATURES).astype(np.float32)
    return Memory(transitions, weights, np.array([0.3, -0.2], np.float32), np.array(5))


@law
@given(histories=rows, asked=rows, seed=st.integers(0, 9))
def test_rows_do_not_depend_on_their_batch(histories: list[list[int]], asked: list[list[int]], seed: int) -> None:
    memory = some_memory(np.random.default_rng(seed), histories)
    together = memory.remembered(Histories.from_lists(asked))
    for user, row in enumerate(asked):
        alone = memory.remembered(Histories.from_lists([row]))
        width = alone[0].shape[1]
        for one, many in zip(alone, together, strict=True):
            assert one[0].tobytes() == many[user, :width].tobytes()
        assert (together[0][user, width:] == -1).all()


def test_items_added_since_training_have_no_transitions() -> None:
    memory = some_memory(np.random.default_rng(0), [[1, 2, 3]])
    items, bonus, slope = memory.remembered(Histories.from_lists([[1, ITEMS + 5]]))
    assert items.tolist() == [[1, 2, ITEMS + 5]]
    assert np.isfinite(bonus).all()
    assert slope.tolist() == [[pytest.approx(0.3), pytest.approx(-0.2), pytest.approx(0.3)]]


def test_a_memory_survives_its_arrays() -> None:
    memory = some_memory(np.random.default_rng(0), [[1, 2, 3], [4, 2, 3]])
    again: Any = Memory.from_arrays(memory.arrays())
    asked = Histories.from_lists([[1, 2], [4]])
    for one, other in zip(memory.remembered(asked), again.remembered(asked), strict=True):
        assert one.tobytes() == other.tobytes()
