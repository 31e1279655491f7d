"""A log's item ids are read as the model's: text "007" stays text, digits are numbers where ids are."""

import json

import polars as pl
import pytest

from everyitem.data.interactions import read_log
from everyitem.evaluate.heldout import evaluate_models
from everyitem.learn.fit import fit
from everyitem.recommender import load

NUMBERS = [7 + 13 * n for n in range(60)]


def events(ids):
    """40 users with ten events each; the last item is a function of the one before."""
    rows = [(user, ids[(user * 7 + step) % len(ids)], step) for user in range(40) for step in range(10)]
    return pl.DataFrame(rows, schema=["user_id", "item_id", "datetime"], orient="row")


@pytest.fixture(scope="module")
def models(tmp_path_factory, tiny_settings):
    """Of the same log, once with integers and once with text of three digits, such as 007."""
    folder = tmp_path_factory.mktemp("ids")
    ids = {"integers": NUMBERS, "text": [f"{n:03}" for n in NUMBERS], "digits": [str(n) for n in NUMBERS]}
    for name, values in ids.items():
        fit(read_log(events(values)), folder / name, **tiny_settings)
    return {name: folder / name for name in ids}


def recommended(works, model, log, tmp_path):
    works("recommend", model, "--users", log, "--out", tmp_path / "out.parquet", "--k", 3)
    return pl.read_parquet(tmp_path / "out.parquet")


def test_digits_in_a_csv_are_text_for_a_model_whose_ids_are_text(works, models, tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id\n1,20\n1,33\n2,46\n")
    found = recommended(works, models["digits"], tmp_path / "log.csv", tmp_path)
    expected = load(models["digits"]).recommend([["20", "33"], ["46"]], k=3)
    assert found["item_id"].to_list() == expected["item_id"].to_list()
    assert found.schema["item_id"] == pl.String


def test_zeros_before_an_id_stay(works, models, tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id\n1,007\n1,020\n2,033\n")
    found = recommended(works, models["text"], tmp_path / "log.csv", tmp_path)
    assert (
        found["item_id"].to_list()
        == load(models["text"]).recommend([["007", "020"], ["033"]], k=3)["item_id"].to_list()
    )
    assert len(json.loads(works("recommend", models["text"], "--history", "007,020", "--json"))) == 10


def test_text_in_a_csv_is_integers_for_a_model_whose_ids_are_integers(works, models, tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id\n1,007\n1,20\n2,33\n2,not-a-number\n3,3.5\n")
    found = recommended(works, models["integers"], tmp_path / "log.csv", tmp_path)
    expected = load(models["integers"]).answer([[7, 20], [33], []], 3).frame
    assert found["item_id"].to_list() == expected["item_id"].to_list()
    assert found.schema["item_id"] == pl.Int64


def test_unknown_events_are_counted_and_said(run, models, tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id\n1,7\n1,x\n2,y\n")
    code, out, err = run(
        "recommend", models["integers"], "--users", tmp_path / "log.csv", "--out", tmp_path / "o.parquet"
    )
    assert (code, "2 users" in out) == (0, True)
    assert "2 events name items that this model does not have" in " ".join(err.split())


def test_typed_tables_of_the_other_type_are_read_as_well(models):
    text = pl.DataFrame({"user_id": ["u", "u"], "item_id": ["7", "20"]})
    assert load(models["integers"]).recommend(text, k=2)["item_id"].to_list() == (
        load(models["integers"]).recommend([[7, 20]], k=2)["item_id"].to_list()
    )
    numbers = text.with_columns(pl.col("item_id").cast(pl.Int16))
    assert load(models["digits"]).recommend(numbers, k=2)["item_id"].to_list() == (
        load(models["digits"]).recommend([["7", "20"]], k=2)["item_id"].to_list()
    )


@pytest.mark.parametrize("model", ["integers", "digits"])
def test_evaluation_does_not_depend_on_how_ids_are_written(models, model, tmp_path):
    frames = {"typed": events(NUMBERS), "text": events([str(n) for n in NUMBERS])}
    for name, frame in frames.items():
        frame.write_parquet(tmp_path / f"{name}.parquet")
        frame.write_csv(tmp_path / f"{name}.csv")
    logs = sorted(tmp_path.iterdir())
    results = [evaluate_models([models[model]], log, time_users=0)[str(models[model])] for log in logs]
    assert len(results) == 4
    assert len({tuple(result.ranks_U.tolist()) for result in results}) == 1
    assert max(results[0].targets_U) > 0


def test_ids_of_the_other_type_of_which_none_is_known_are_refused(refused, models, tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id\n1,a\n2,b\n")
    command = ("recommend", models["integers"], "--users", tmp_path / "log.csv", "--out", tmp_path / "out.parquet")
    assert "item ids are Int64 in this model, String in the log" in refused(*command)
    assert "give the log" in refused(*command)
    assert not (tmp_path / "out.parquet").exists()
    pl.DataFrame({"user_id": [1], "item_id": [3]}).write_parquet(tmp_path / "log.parquet")
    refused("recommend", models["text"], "--users", tmp_path / "log.parquet", "--out", tmp_path / "out.parquet")
    assert "integers; got a" in refused("recommend", models["integers"], "--history", "a")
