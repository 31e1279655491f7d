import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from everyitem.types import Histories

NUM_ITEMS = 9
rows_of_items = st.lists(st.lists(st.integers(0, NUM_ITEMS - 1), max_size=7), max_size=8)


def lists(histories):
    return [row.tolist() for row in histories]


@st.composite
def views(draw):
    """Histories that are views into a larger array, in any order, with their naive twin."""
    items = np.array(draw(st.lists(st.integers(0, NUM_ITEMS - 1), min_size=1, max_size=30)), np.int32)
    cut = st.tuples(st.integers(0, len(items)), st.integers(0, len(items))).map(sorted)
    cuts = np.array(draw(st.lists(cut, max_size=8)), np.int64).reshape(-1, 2)
    return Histories(items, cuts[:, 0], cuts[:, 1]), [items[a:b].tolist() for a, b in cuts]


@given(rows_of_items)
def test_lists_come_back_as_they_went_in(rows):
    histories = Histories.from_lists(rows)
    assert lists(histories) == rows
    assert len(histories) == len(rows)
    assert histories.items.dtype == np.int32
    assert histories.lengths.tolist() == [len(row) for row in rows]


@given(views())
def test_events_are_the_rows_one_after_the_other(pair):
    histories, rows = pair
    events = histories.events()
    assert events.tolist() == [event for row in rows for event in row]
    assert events.dtype == np.int32


@given(views(), st.sampled_from(["left", "right"]))
def test_padded_equals_its_naive_twin(pair, align):
    histories, rows = pair
    width = max(map(len, rows), default=0)
    twin = [[-1] * (width - len(r)) + r if align == "right" else r + [-1] * (width - len(r)) for r in rows]
    padded = histories.padded(align)
    assert padded.shape == (len(rows), width)
    assert padded.dtype == np.int32
    assert padded.tolist() == twin


@given(views(), st.lists(st.integers(-1, 5), min_size=NUM_ITEMS, max_size=NUM_ITEMS))
def test_translate_equals_its_naive_twin(pair, position_of):
    histories, rows = pair
    translated = histories.translate(np.array(position_of, np.int32))
    assert lists(translated) == [[position_of[i] for i in row if position_of[i] >= 0] for row in rows]


@given(views(), st.integers(0, 8))
def test_last_keeps_the_newest_events(pair, num_events):
    histories, rows = pair
    assert lists(histories.last(num_events)) == [row[len(row) - min(num_events, len(row)) :] for row in rows]


@given(views(), st.data())
def test_select_takes_rows_in_the_order_asked_for(pair, data):
    histories, rows = pair
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=6)) if rows else []
    assert lists(histories.select(np.array(chosen, np.int64))) == [rows[u] for u in chosen]
    assert lists(histories.select(slice(1, None, 2))) == rows[1::2]


def test_shorter_views_copy_nothing():
    histories = Histories.from_lists([[1, 2, 3], [4]])
    assert histories.last(1).select(slice(0, 1)).items is histories.items
