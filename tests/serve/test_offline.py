import polars as pl
import pytest

from everyitem.recommender import load
from everyitem.serve import offline
from everyitem.serve.offline import recommend_to_parquet


@pytest.fixture(scope="module", params=["pq", "dense"])
def model(request, tiny_models):
    return load(tiny_models[request.param])


@pytest.mark.parametrize("users_per_batch", [7, 2048])
@pytest.mark.parametrize("settings", [{}, {"where": "in_stock and price < 30", "exclude_seen": False}])
def test_the_file_is_what_recommend_returns(model, tiny_log, tmp_path, monkeypatch, users_per_batch, settings):
    monkeypatch.setattr(offline, "USERS_PER_BATCH", users_per_batch)
    out = tmp_path / "out.parquet"
    assert recommend_to_parquet(model, tiny_log, out, k=4, **settings) == (120, 0)
    found, expected = pl.read_parquet(out), model.recommend(tiny_log, k=4, **settings)
    assert found.drop("score").equals(expected.drop("score"))
    assert (found["score"] - expected["score"]).abs().max() < 1e-5  # the encoder's bits depend on the batch
    assert found.schema == expected.schema
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]


def test_users_without_a_known_event_get_popularity(model, tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("user_id,item_id\nu,item-003\nv,nobody\n")
    assert recommend_to_parquet(model, log, tmp_path / "out.parquet", k=2**31 - 1) == (2, 1)
    found = pl.read_parquet(tmp_path / "out.parquet")
    assert found.group_by("user_id").len().sort("user_id").rows() == [("u", 399), ("v", 400)]
    assert found.filter(user_id="v")["item_id"].to_list() == model.answer([[]], 400).frame["item_id"].to_list()


def test_a_condition_that_nothing_meets_is_an_empty_file(model, tiny_log, tmp_path):
    assert recommend_to_parquet(model, tiny_log, tmp_path / "out.parquet", where="price < 0") == (120, 0)
    assert pl.read_parquet(tmp_path / "out.parquet").shape == (0, 4)


@pytest.mark.parametrize("settings", [{"k": 0}, {"where": "nope"}])
def test_mistakes_leave_the_old_file_alone(model, tiny_log, tmp_path, settings):
    out = tmp_path / "out.parquet"
    out.write_text("old")
    with pytest.raises(ValueError, match=r"k is 0|nope"):
        recommend_to_parquet(model, tiny_log, out, **settings)
    assert out.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]


def test_integers_for_a_model_with_text_ids_are_refused(model, tmp_path):
    pl.DataFrame({"user_id": [1], "item_id": [3]}).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(ValueError, match="item ids are String in this model"):
        recommend_to_parquet(model, tmp_path / "log.parquet", tmp_path / "out.parquet")


@pytest.mark.parametrize("name", [".", "missing/out.parquet", "file/out.parquet"])
def test_a_place_that_takes_no_file_is_refused_at_once(model, tiny_log, tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"give a \.parquet file in a folder that exists"):
        recommend_to_parquet(model, tiny_log, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
