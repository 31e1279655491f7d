"""A model that changes while it is served: no failed answer, none of two versions, never a damaged one."""

import shutil
import threading
import time

import numpy as np
import polars as pl
import pytest

from everyitem.recommender import load
from everyitem.serve import live
from everyitem.serve.live import Change, LiveModel, NewItem
from everyitem.serve.version import Version

HISTORY = ["item-003", "item-017", "item-250"]


@pytest.fixture
def folder(copied):
    return copied("pq")


@pytest.fixture
def model(folder):
    model = LiveModel(folder)
    yield model
    model.close()


def best(recommender):
    return recommender.recommend([HISTORY], k=20)["item_id"].to_list()


def wait_for(condition, seconds=20):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.01)


def test_every_answer_is_of_one_version_whatever_happens_to_the_folder(served, folder):
    """Versions hide the best item of the one before: an answer of two versions would equal none of the oracles."""
    client = served(folder)
    recommender = load(folder)
    oracles, answers, stop = {Version(folder).name: best(recommender)}, [], threading.Event()

    def ask():
        while not stop.is_set():
            answers.append(client.post("/v1/recommend", json={"history": HISTORY, "k": 20}))

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for asker in askers:
        asker.start()
    for _ in range(4):
        recommender.remove_items(best(recommender)[:1])
        recommender.save(folder)
        name = Version(folder).name
        oracles[name] = best(recommender)
        wait_for(lambda name=name: client.get("/readyz").json()["model_version"] == name)
    stop.set()
    for asker in askers:
        asker.join()
    assert {answer.status_code for answer in answers} == {200}
    seen = set()
    for answer in (answer.json() for answer in answers):
        assert [item["item_id"] for item in answer["items"]] == oracles[answer["model_version"]]
        seen.add(answer["model_version"])
    assert len(seen) >= 3


@pytest.mark.parametrize("part", ["recommender.json", "items.parquet", "encoder.onnx", "index/v000002/codes.npy"])
def test_a_damaged_version_is_refused_and_the_old_one_serves_on(model, folder, part):
    old = model.current
    recommender = load(folder)
    expected = best(recommender)
    recommender.remove_items(expected[:1])
    with model._opening:  # no look before the damage is done
        recommender.save(folder)
        content = bytearray((folder / part).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / part).write_bytes(content)
    wait_for(lambda: model.refused is not None)
    assert "damaged" in model.refused or "checksum" in model.refused
    assert model.current is old
    assert best(old.recommender) == expected
    content[len(content) // 2] ^= 1
    (folder / part).write_bytes(content)
    model.look()
    assert model.refused is None
    assert best(model.current.recommender) != expected


def test_a_version_whose_golden_query_is_answered_wrongly_is_refused(folder, monkeypatch):
    monkeypatch.setattr("everyitem.index.files.golden_answered", lambda *_: False)
    with pytest.raises(ValueError, match="golden query is answered wrongly"):
        Version(folder)


def test_a_folder_may_be_moved_into_the_place(model, folder, tiny_models):
    shutil.move(folder, folder.with_name("old"))
    time.sleep(live.LOOK_SECONDS)  # nothing there: refused, and the old version serves
    shutil.copytree(tiny_models["dense"], folder, ignore=shutil.ignore_patterns("training"))
    wait_for(lambda: model.current.index.__class__.__name__ == "DenseIndex")
    assert model.refused is None


@pytest.mark.parametrize("kind", ["pq", "dense"])
def test_a_change_is_served_and_outlives_the_server(copied, kind):
    folder = copied(kind)
    model, before = LiveModel(folder), best(load(folder))
    one, two = before[0], before[1]
    told = []
    model._announce = lambda: told.append(1)
    upsert = [NewItem("new", {"price": 3.0, "title": "Ünew"}, [one]), NewItem(two, {"price": 1.5}, [])]
    assert model.change(upsert, [one]) == Change(added=1, updated=1, deleted=1)
    assert told == [1]
    model.close()
    for recommender in (model.current.recommender, load(folder)):
        items = recommender.items
        assert items.filter(item_id="new").select("title", "price", "training_events").row(0) == ("Ünew", 3.0, 0)
        assert items.filter(item_id=two).select("price", "title").row(0) == (
            1.5,
            load(folder).items.filter(item_id=two)["title"][0],
        )
        found = recommender.recommend([HISTORY], k=401)["item_id"].to_list()
        assert one not in found
        assert "new" in found
    # what was removed may come back, with the score it had
    again = LiveModel(folder)
    again.change([NewItem(one, {}, [])], ["new"])
    again.close()
    assert best(load(folder)) == before


@pytest.mark.parametrize("kind", ["pq", "dense", "two-level"])
def test_a_change_is_served_without_opening_the_folder_as_if_it_had_been(copied, kind, monkeypatch):
    folder = copied(kind)
    model, opened = LiveModel(folder), []
    old, before = model.current, best(model.current.recommender)
    monkeypatch.setattr("everyitem.serve.version.load", lambda folder: opened.append(folder) or load(folder))
    for delete in before[:3]:
        model.change(
            [NewItem(f"in place of {delete}", {"price": 3.0}, [delete]), NewItem("item-009", {}, [])], [delete]
        )
    model.close()
    assert opened == []
    served, stored = model.current, Version(folder)
    assert served.name == stored.name
    assert served.recommender.items.equals(stored.recommender.items)
    options = {"k": 404, "exclude_seen": False}
    answers = [version.recommender.recommend([HISTORY], **options) for version in (served, stored)]
    assert answers[0].equals(answers[1])
    assert served.problem() is stored.problem() is None
    assert best(old.recommender) == before  # whoever was given the old version is answered by it
    assert old.problem() is None


def test_a_change_after_that_of_another_process_keeps_both(model, folder):
    other = load(folder)
    other.remove_items(HISTORY[:1])
    with model._opening:  # not seen yet
        other.save(folder)
        changing = threading.Thread(target=model.change, args=([], HISTORY[1:2]))
        changing.start()
    changing.join()
    left = set(load(folder).recommend([HISTORY], k=401, exclude_seen=False)["item_id"])
    assert left.isdisjoint(HISTORY[:2])
    assert HISTORY[2] in left


def test_a_change_that_is_wrong_in_one_place_changes_nothing(model, folder):
    for upsert, delete in (
        ([NewItem("a", {}, [HISTORY[0]]), NewItem("b", {}, ["nope"])], []),
        ([NewItem(HISTORY[0], {"price": 1.0}, []), NewItem("a", {"nope": 1}, [HISTORY[0]])], []),
        ([NewItem("a", {}, [HISTORY[0]])], ["nope"]),
        ([NewItem("a", {"price": "x"}, [HISTORY[0]])], []),
    ):
        with pytest.raises(ValueError, match=r"nope|known item|another type"):
            model.change(upsert, delete)
    assert load(folder).items.equals(model.current.recommender.items)
    assert "a" not in load(folder).items["item_id"]


def test_changes_of_several_workers_wait_for_each_other(folder):
    models = [LiveModel(folder) for _ in range(2)]

    def change(number):
        models[number % 2].change([NewItem(f"new-{number}", {}, [HISTORY[0]])], [])

    threads = [threading.Thread(target=change, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for model in models:
        wait_for(lambda model=model: model.current.index.num_items == 404)
        model.close()
    assert {f"new-{number}" for number in range(4)} <= set(load(folder).items["item_id"])


def test_an_old_version_is_let_go(model, folder):
    import gc
    import weakref

    old = weakref.ref(model.current)
    model.change([], ["item-003"])
    gc.collect()
    assert old() is None


def test_attributes_change_only_where_they_are_named(folder):
    recommender = load(folder)
    before = recommender.items
    changed = pl.DataFrame({"item_id": HISTORY[:2], "price": [1.0, None]}, schema_overrides={"price": pl.Float64})
    recommender.update_items(changed)
    after = recommender.items
    assert after["item_id"].equals(before["item_id"])
    assert after.filter(pl.col("item_id").is_in(HISTORY[:2]))["price"].to_list() == [1.0, None]
    rest = ~after["item_id"].is_in(HISTORY[:2])
    assert after.filter(rest).equals(before.filter(rest))
    assert after.drop("price").equals(before.drop("price"))
    for wrong in ({"item_id": ["nope"]}, {"item_id": [HISTORY[0]] * 2}, {"item_id": [HISTORY[0]], "price": ["x"]}):
        with pytest.raises(ValueError, match=r"not in the catalogue|given twice|types"):
            recommender.update_items(pl.DataFrame(wrong))
    assert np.array_equal(recommender.items["training_events"], before["training_events"])
