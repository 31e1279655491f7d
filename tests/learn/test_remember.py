"""The weights of a memory: fitted on validation users, they find what counts predict and vectors do not."""

import numpy as np
import pytest

from everyitem.index import DenseIndex, PQIndex, raised
from everyitem.learn.remember import fit_memory
from everyitem.memory import Memory, count_transitions
from everyitem.types import Histories

ITEMS, USERS = 300, 400
RNG = np.random.default_rng(0)
NEXT = RNG.permutation(ITEMS)  # what follows an item, nine times in ten


def chains(rng, num_rows, length):
    rows = np.empty((num_rows, length), int)
    rows[:, 0] = rng.integers(0, ITEMS, num_rows)
    for t in range(1, length):
        rows[:, t] = np.where(rng.random(num_rows) < 0.9, NEXT[rows[:, t - 1]], rng.integers(0, ITEMS, num_rows))
    return rows


@pytest.fixture(params=["dense", "pq"])
def index(request):
    vectors = RNG.standard_normal((ITEMS, 8)).astype(np.float32)
    return DenseIndex(vectors) if request.param == "dense" else PQIndex.from_embeddings(vectors, 4, num_sub_items=16)


def fitted(index, rows, query):
    train = Histories.from_lists(chains(np.random.default_rng(1), 500, 12).tolist())
    histories = Histories.from_lists(rows[:, :-1].tolist())
    transitions = count_transitions(train, ITEMS, 8)
    memory = fit_memory(transitions, index, query, histories, rows[:, -1].astype(np.int32), length=5, seed=0)
    return memory, histories


def hits(memory, index, query, histories, targets):
    top = raised.top_k(index, query, 1, *memory.remembered(histories))
    return (top.items[:, 0] == targets).mean()


def test_what_the_vectors_do_not_know_is_remembered(index):
    rows, query = chains(np.random.default_rng(2), USERS, 6), RNG.standard_normal((USERS, 8)).astype(np.float32)
    memory, histories = fitted(index, rows, query)
    nothing = Memory(memory.transitions, 0 * memory.weights_F, 0 * memory.slopes, memory.length)
    assert hits(nothing, index, query, histories, rows[:, -1]) < 0.05
    assert hits(memory, index, query, histories, rows[:, -1]) > 0.85
    again, _ = fitted(index, rows, query)
    assert again.weights_F.tobytes() == memory.weights_F.tobytes()


def test_what_is_no_use_is_not_believed(index):
    rng = np.random.default_rng(3)
    rows, targets = chains(rng, USERS, 6), rng.integers(0, ITEMS, USERS)
    rows[:, -1] = targets  # anything may follow
    query = index.vectors(targets) * 3  # and the vectors know it
    memory, histories = fitted(index, rows, query)
    nothing = Memory(memory.transitions, 0 * memory.weights_F, 0 * memory.slopes, memory.length)
    alone = hits(nothing, index, query, histories, targets)
    assert hits(memory, index, query, histories, targets) > alone - 0.03
