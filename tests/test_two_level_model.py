"""A model with two-level items from the log to the last command: what is particular to it."""

import json

import numpy as np
import polars as pl
import pytest

from everyitem.data.alike import alike_by_text
from everyitem.data.interactions import read_log
from everyitem.index import TwoLevelIndex
from everyitem.index.grouping import among
from everyitem.learn.fit import fit
from everyitem.recommender import load


@pytest.fixture
def small(tiny_settings):
    return lambda **settings: tiny_settings | {"items": "two-level", "epochs": 1, "blocks": 1} | settings


def test_training_says_how_items_are_grouped(tiny_models):
    metrics = json.loads((tiny_models["two-level"] / "metrics.json").read_text())
    index = load(tiny_models["two-level"]).index
    assert isinstance(index, TwoLevelIndex)
    assert metrics["clusters"] == index.num_clusters == 20
    assert metrics["largest_cluster"] == index.cluster_sizes_C.max() <= 40


def test_a_resumed_run_ends_with_the_same_bits(tiny_log, tmp_path, small):
    log = read_log(tiny_log)
    whole = fit(log, tmp_path / "whole", **small(epochs=2, clusters="random", logit_cap=30.0))
    fit(log, tmp_path / "parts", **small(clusters="random", logit_cap=30.0))
    parts = fit(log, tmp_path / "parts", **small(epochs=2, clusters="random", logit_cap=30.0, resume=True))
    assert whole.index.logit_cap == parts.index.logit_cap == 30.0
    assert whole.index.vectors_ID.tobytes() == parts.index.vectors_ID.tobytes()
    assert whole.index.clusters_CD.tobytes() == parts.index.clusters_CD.tobytes()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "gbce"}, "loss is gbce; two-level items have one of their own"),
        ({"num_clusters": 401}, "num_clusters is 401; allowed: 1 to 400"),
        ({"num_clusters": 0}, "num_clusters is 0"),
        ({"logit_cap": 0.0}, "logit_cap is 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(tiny_log, tmp_path, small, settings, message):
    with pytest.raises(ValueError, match=message):
        fit(read_log(tiny_log), tmp_path / "model", **small(**settings))
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(("backbone", "clusters"), [("gbert4rec", "spectral"), ("sasrec", "frequency")])
def test_every_backbone_and_clustering_trains(tiny_log, tmp_path, small, backbone, clusters):
    model = fit(read_log(tiny_log), tmp_path / "model", **small(backbone=backbone, clusters=clusters, num_clusters=9))
    assert model.index.num_clusters >= 9
    assert model.recommend([[model.items["item_id"][0]]], k=500)["score"].is_finite().all()


def test_training_lowers_the_loss(tiny_log, tmp_path, small):
    fit(read_log(tiny_log), tmp_path / "model", **small(epochs=4, validate_every=4, learning_rate=1e-2))
    lines = [json.loads(line) for line in (tmp_path / "model" / "training" / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.1


def test_scores_are_probabilities_of_all_items(tiny_models, tiny_log):
    model = load(tiny_models["two-level"])
    query = model.encode(read_log(tiny_log).histories.select(np.arange(5)))
    top = model.index.top_k(query, 400)
    np.testing.assert_allclose(np.exp(top.scores.astype(np.float64)).sum(axis=1), 1, atol=1e-5)


def test_an_explanation_names_cluster_and_item(tiny_models, tiny_log):
    model = load(tiny_models["two-level"])
    history = model.items["item_id"][:3].to_list()
    item = model.recommend([history], k=1)["item_id"][0]
    explained = model.explain(history, item)
    levels = explained.splits.filter(pl.col("split").is_not_null())
    assert levels["sub_item"].to_list() == [
        model.index.cluster_of_I[model.positions([item])[0]],
        model.positions([item])[0],
    ]
    parts = explained.splits["score"].to_numpy()
    assert np.add.accumulate(parts)[-1] == np.float32(explained.score) == model.recommend([history], k=1)["score"][0]
    assert (levels["score"] <= 0).all()


def test_every_command_takes_it(copied, works, refused, tiny_log, tmp_path):
    folder = copied("two-level")
    known = load(folder).items["item_id"]
    rows = json.loads(works("recommend", folder, "--history", f"{known[0]},{known[1]}", "--explain", "--json"))
    assert [row["rank"] for row in rows] == list(range(1, 11))
    assert f"cluster {rows[0]['why']['splits'][0]['sub_item']}" in rows[0]["why"]["in_short"]
    assert "% of it" in works("recommend", folder, "--history", known[0], "--explain").replace("\n", "")
    new = tmp_path / "new.csv"
    new.write_text(f"item_id,like\nnew,{known[2]} {known[3]}\n")
    works("items", "add", folder, new)
    model = load(folder)
    position = model.positions(["new"])[0]
    assert model.index.cluster_of_I[position] == model.index.nearest_clusters(model.index.vectors([position]))[0]
    assert "new" in model.recommend([[known[2]]], k=500)["item_id"].to_list()
    other = tmp_path / "other.parquet"
    pl.DataFrame({"item_id": ["other"], "title": [model.items["title"][7]]}).write_parquet(other)
    works("items", "add", folder, other)  # no `like`: its title says what it is like
    (alike,) = alike_by_text(model.items["title"], model.items["title"][7:8], 3)
    index, position = load(folder).index, load(folder).positions(["other"])
    assert alike[0] == 7 or model.items["title"][alike[0]] == model.items["title"][7]
    assert index.vectors(position)[0].tobytes() == among(index.vectors(alike)).tobytes()
    pl.DataFrame({"item_id": ["third"], "title": ["qqqq"]}).write_parquet(other)
    assert "no known item shares a word" in refused("items", "add", folder, other)
    works("items", "remove", folder, new)
    assert "new" not in load(folder).recommend([[known[2]]], k=500)["item_id"].to_list()
    assert json.loads(works("evaluate", folder, tiny_log, "--time-users", 0, "--json"))["ndcg@10"]["value"] >= 0
    works("check", folder)
    works("export", folder, tmp_path / "out")
    arrays = {path.stem: np.load(path, allow_pickle=False) for path in (tmp_path / "out").iterdir()}
    index = load(folder).index
    again = TwoLevelIndex(arrays["vectors"], arrays["cluster_of"], arrays["clusters"], bias_C=arrays["bias"])
    query = index.vectors([0, 1])
    assert again.scores(query, [[5], [6]]).tobytes() == index.scores(query, [[5], [6]]).tobytes()
