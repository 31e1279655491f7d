import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everyitem.data.batches import Batches, windows
from everyitem.types import Histories

lengths = st.lists(st.integers(0, 23), max_size=12)


def numbered(row_lengths):
    """Histories in which every event is a number of its own."""
    events = iter(range(10**6))
    return Histories.from_lists([[next(events) for _ in range(n)] for n in row_lengths])


def rows_of(batches):
    return sorted(tuple(row[row >= 0].tolist()) for batch in batches for row in batch)


@given(lengths, st.integers(1, 9))
def test_every_event_but_a_users_first_is_a_target_exactly_once(row_lengths, length):
    histories = numbered(row_lengths)
    pieces = [piece.tolist() for piece in windows(histories, length)]
    assert sorted(event for piece in pieces for event in piece[1:]) == sorted(e for row in histories for e in row[1:])
    assert all(2 <= len(piece) <= length + 1 for piece in pieces)
    assert all(piece == list(range(piece[0], piece[-1] + 1)) for piece in pieces)


@given(lengths, st.integers(1, 9))
def test_the_newest_piece_of_a_user_is_full_and_is_all_that_last_keeps(row_lengths, length):
    histories = numbered(row_lengths)
    newest = [row[-length - 1 :].tolist() for row in histories if len(row) >= 2]
    assert [piece.tolist() for piece in windows(histories, length, keep="last")] == newest
    assert {tuple(piece) for piece in newest} <= {tuple(piece.tolist()) for piece in windows(histories, length)}


@given(
    st.lists(st.integers(1, 23), max_size=60),
    st.integers(1, 80),
    st.integers(1, 4),
    st.integers(0, 3),
    st.integers(0, 12),
)
def test_an_epoch_is_every_row_once_and_can_start_anywhere(row_lengths, positions, bucket, number, start):
    histories = numbered(row_lengths)
    batches = Batches(histories, positions=positions, bucket=bucket, seed=7)
    whole = list(batches.epoch(number))
    assert rows_of(whole) == sorted(tuple(row.tolist()) for row in histories)
    tail = list(Batches(histories, positions=positions, bucket=bucket, seed=7).epoch(number, start=start))
    assert [batch.tolist() for batch in tail] == [batch.tolist() for batch in whole[start:]]
    assert all(batch.size <= positions or len(batch) == 1 for batch in whole)


def test_batches_are_padded_on_the_right_to_their_longest_row():
    batches = Batches(numbered([5, 1, 3, 3, 2]), positions=100)
    (batch,) = batches.epoch(0)
    real = batch >= 0
    assert batch.dtype == np.int32
    assert batch.shape == (5, 5)
    assert (real[:, :-1] >= real[:, 1:]).all()


def test_padding_stays_small_on_skewed_lengths():
    row_lengths = np.clip(np.random.default_rng(0).zipf(1.5, 4000), 2, 51)
    batches = list(Batches(numbered(row_lengths), positions=1600, bucket=16).epoch(0))
    assert sum(batch.size for batch in batches) <= 1.1 * row_lengths.sum()
    naive = sum(51 * 31 for _ in range(0, 4000, 31))
    assert sum(batch.size for batch in batches) < naive / 2


@pytest.mark.parametrize("change", [{"seed": 1}, {"number": 1}])
def test_seed_and_epoch_each_shuffle_anew(change):
    histories = numbered([2] * 50)
    first = [b.tolist() for b in Batches(histories, positions=10, seed=0).epoch(0)]
    other = [
        b.tolist() for b in Batches(histories, positions=10, seed=change.get("seed", 0)).epoch(change.get("number", 0))
    ]
    assert first != other
