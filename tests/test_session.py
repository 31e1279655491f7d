import numpy as np
import pytest

from everyitem.recommender import load
from everyitem.session import Session

LENGTH = 10  # of the tiny models


@pytest.fixture(scope="module", params=["pq", "dense"])
def recommender(request, tiny_models):
    return load(tiny_models[request.param])


def clicks(recommender, number):
    positions = np.random.default_rng(0).integers(0, len(recommender.items), number)
    return recommender.items["item_id"].gather(positions).to_list()


def whole(recommender, history, **options):
    return recommender.recommend([history], k=10, **options).drop("user_id")


def assert_same(ours, expected):
    assert ours["item_id"].to_list() == expected["item_id"].to_list()
    assert ours["rank"].to_list() == expected["rank"].to_list()
    np.testing.assert_allclose(ours["score"], expected["score"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"exclude_seen": False}, {"where": "training_events > 1"}])
def test_every_click_answers_as_the_whole_history_does(recommender, options):
    history, session = clicks(recommender, LENGTH), Session(recommender)
    for number, item in enumerate(history, 1):
        assert session.add([item]) == 0
        assert_same(session.recommend(**options), whole(recommender, history[:number], **options))
        assert session.window == number


def test_a_session_may_start_with_a_history_of_any_length(recommender):
    for number in (1, 4, LENGTH, LENGTH + 1, 3 * LENGTH):
        history = clicks(recommender, number)
        session = Session(recommender, history)
        assert session.window == min(number, LENGTH)
        assert_same(session.recommend(), whole(recommender, history))


def test_a_full_window_keeps_its_newer_half(recommender):
    history, session, windows = clicks(recommender, 4 * LENGTH), Session(recommender), []
    for item in history:
        session.add([item])
        windows.append(session.window)
        newest = recommender.index.vectors(session.events[-session.window :])[None]
        np.testing.assert_allclose(session.query_UD, recommender.encoder(newest), rtol=0, atol=1e-5)
    assert windows[: LENGTH + 1] == [*range(1, LENGTH + 1), LENGTH // 2]
    assert min(windows[LENGTH:]) == LENGTH // 2
    assert max(windows) == LENGTH
    assert len(session.events) == 4 * LENGTH


def test_events_may_come_several_at_a_time(recommender):
    history = clicks(recommender, 9)
    session = Session(recommender, history[:2])
    session.add(history[2:5])
    session.add(history[5:])
    assert_same(session.recommend(), whole(recommender, history))
    session.add(clicks(recommender, 3 * LENGTH))
    assert session.window == LENGTH


def test_unknown_items_are_skipped_and_counted(recommender):
    history = clicks(recommender, 3)
    session = Session(recommender, [history[0], "no such item"] if isinstance(history[0], str) else [history[0], -5])
    assert len(session.events) == 1
    assert session.add([]) == 0
    assert session.add(["unheard of"] if isinstance(history[0], str) else [-7]) == 1
    assert_same(session.recommend(), whole(recommender, history[:1]))


@pytest.mark.filterwarnings("ignore:1 users without a known event")
def test_an_empty_session_gets_what_is_popular(recommender):
    assert_same(Session(recommender).recommend(), whole(recommender, []))


def test_an_encoder_without_a_state_is_refused(recommender, monkeypatch):
    monkeypatch.setattr(recommender.encoder, "state_width", 0)
    with pytest.raises(ValueError, match=r"keeps no state.*use Recommender\.recommend"):
        Session(recommender)
